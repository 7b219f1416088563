// The models in evenkeel. The bundler finds the wasm build by the name "evenkeel-wasm".
import start, { Run } from "evenkeel-wasm";
import { serve } from "./page.js";

serve(async (model, clip) => {
  await start({ module_or_path: "evenkeel.wasm" });
  const run = await Run.create(model, clip);
  const losses = [];
  const read = async () => losses.push(...(await run.losses()));
  return {
    step: () => run.step(),
    finish: read,
    losses: async () => losses,
  };
});
