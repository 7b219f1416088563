// What every page does: hands its program to the runner, which asks for measurements.

/** Calls of WebGPU that are counted, by what they are called in the report. */
const COUNTED = {
  dispatches: [GPUComputePassEncoder, "dispatchWorkgroups"],
  submits: [GPUQueue, "submit"],
  writes: [GPUQueue, "writeBuffer"],
  buffers: [GPUDevice, "createBuffer"],
  "bind groups": [GPUDevice, "createBindGroup"],
  readbacks: [GPUBuffer, "mapAsync"],
};

/** Counts calls while `work` runs. */
async function count(work) {
  const counts = {};
  for (const [key, [type, method]] of Object.entries(COUNTED)) {
    const original = type.prototype[method];
    counts[key] = 0;
    type.prototype[method] = function (...args) {
      counts[key] += 1;
      return original.apply(this, args);
    };
  }
  await work();
  return counts;
}

/**
 * `create(model, clip)` gives a run with `step()`, which trains one step and, if it can, does not
 * wait for it; `finish()`, which waits until all steps are done; and `losses()`, of all steps.
 */
export function serve(create) {
  let run;
  /** Trains `warmup` steps, then as many as take about `milliseconds`, at least `least`. */
  window.measure = async ({ model, clip, warmup, least, milliseconds }) => {
    run = await create(model, clip);
    await run.step();
    await run.finish();
    // Since the page began to load.
    const first = performance.now();
    const timed = async (steps) => {
      const start = performance.now();
      for (let step = 0; step < steps; step++) await run.step();
      await run.finish();
      return performance.now() - start;
    };
    const estimate = (await timed(warmup)) / warmup;
    const steps = Math.max(least, Math.round(milliseconds / estimate));
    const step = (await timed(steps)) / steps;
    return { first, step, losses: [...(await run.losses())] };
  };
  /** Calls of WebGPU in some more steps, of which only the last loss is waited for. */
  window.count = (steps) =>
    count(async () => {
      for (let step = 0; step < steps; step++) await run.step();
      await run.finish();
    });
  document.title = "ready";
}
