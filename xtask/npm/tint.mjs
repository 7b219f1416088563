// Compiles WGSL with Tint on a null device that has WebGPU's default limits.
//
//     node tint.mjs LIST
//
// Each line of LIST is a JSON object and the name of a file: which features the device needs, what is
// bound at 0, 1, 2, ..., and the pipeline's constants. The answer to each is a line `ok FILE` or
// `error FILE`, the latter followed by messages, a tab before each of their lines.
import fs from 'node:fs';
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);
const gpu = create(['backend=null']);
const devices = new Map();

// A device has the features that its shaders name and no others.
async function deviceWith(features) {
  const key = features.join();
  if (!devices.has(key)) {
    // An adapter gives one device.
    const adapter = await gpu.requestAdapter();
    devices.set(key, await adapter.requestDevice({ requiredFeatures: features }));
  }
  return devices.get(key);
}

async function errors({ features, buffers, constants }, code) {
  const device = await deviceWith(features);
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const { messages } = await module.getCompilationInfo();
  const found = messages
    .filter((message) => message.type === 'error')
    .map((message) => `${message.lineNum}:${message.linePos} ${message.message}`);
  const entries = buffers.map((type, binding) => ({
    binding,
    visibility: GPUShaderStage.COMPUTE,
    buffer: { type },
  }));
  const layout = device.createPipelineLayout({
    bindGroupLayouts: [device.createBindGroupLayout({ entries })],
  });
  const compute = { module, entryPoint: 'main', constants };
  if (found.length === 0) device.createComputePipeline({ layout, compute });
  const error = await device.popErrorScope();
  if (error && found.length === 0) found.push(error.message);
  return found;
}

for (const line of fs.readFileSync(process.argv[2], 'utf8').trimEnd().split('\n')) {
  const end = line.lastIndexOf(' ');
  const name = line.slice(end + 1);
  const found = await errors(JSON.parse(line.slice(0, end)), fs.readFileSync(name, 'utf8'));
  console.log(`${found.length ? 'error' : 'ok'} ${name}`);
  for (const message of found) console.log(`\t${message.trimEnd().replaceAll('\n', '\n\t')}`);
}
for (const device of devices.values()) device.destroy();
// Dawn's event loop would keep the program alive.
process.exit(0);
