// The models that every program trains, their initial weights and their batches: the same numbers
// as in src/problem.rs. Losses that agree show it.

/** Hidden layers of linear and ReLU; cross-entropy over classes. */
export const MLP = { inputs: 64, hidden: [128, 128], classes: 10, batch: 64 };
/** GPT-2's form: learned positions, LayerNorm in front, GELU by tanh, biases, tied head. */
export const GPTS = {
  gpt: { vocabulary: 64, context: 64, layers: 2, heads: 4, width: 64, batch: 8 },
  "gpt-0.8m": { vocabulary: 96, context: 64, layers: 4, heads: 4, width: 128, batch: 8 },
};
/** Batches before the first one comes again. */
export const BATCHES = 16;
/** Adam of Kingma and Ba. */
export const ADAM = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 };
/** Decay of AdamW, decoupled: a step takes this times the learning rate from weights of these shapes. */
export const weightDecay = (model, shape) => (model === "gpt-0.8m" && shape.length > 1 ? 0.01 : 0);
/** The global norm that gradients are clipped to where they are. */
export const MAX_NORM = 0.1;

/** Parameters of a model: name to shape, weights as (outputs, inputs). */
export function shapes(model) {
  const shapes = {};
  const linear = (name, inputs, outputs) => {
    shapes[`${name}.weight`] = [outputs, inputs];
    shapes[`${name}.bias`] = [outputs];
  };
  if (model === "mlp") {
    let width = MLP.inputs;
    MLP.hidden.forEach((hidden, layer) => {
      linear(`layers.${layer}.linear`, width, hidden);
      width = hidden;
    });
    linear("head", width, MLP.classes);
    return shapes;
  }
  const { vocabulary, context, layers, width } = GPTS[model];
  const norm = (name) => {
    shapes[`${name}.weight`] = [width];
    shapes[`${name}.bias`] = [width];
  };
  shapes["token_embedding.weight"] = [vocabulary, width];
  shapes["position_embedding.weight"] = [context, width];
  for (let layer = 0; layer < layers; layer++) {
    const block = `blocks.${layer}`;
    norm(`${block}.norm1`);
    linear(`${block}.attention.qkv`, width, 3 * width);
    linear(`${block}.attention.projection`, width, width);
    norm(`${block}.norm2`);
    linear(`${block}.mlp.up`, width, 4 * width);
    linear(`${block}.mlp.down`, 4 * width, width);
  }
  norm("norm");
  return shapes;
}

/** Initial values: matrices uniform in ±1/sqrt(columns), weights of norms 1, biases 0. */
export function initial(name, shape) {
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (shape.length === 1) return values.fill(name.endsWith("weight") ? 1 : 0);
  const bound = 1 / Math.sqrt(shape[1]);
  return values.map((_, index) => signed(streamOf(name), index) * bound);
}

/** Batch `step`, as it lies in memory: features and classes, or tokens and their successors. */
export function batch(model, step) {
  const index = step % BATCHES;
  if (model === "mlp") {
    const { inputs: features, classes, batch } = MLP;
    const inputs = new Float32Array(batch * features);
    const targets = new Int32Array(batch);
    for (let row = 0; row < batch; row++) {
      const sample = index * batch + row;
      const label = hash(streamOf("class"), sample) % classes;
      targets[row] = label;
      for (let column = 0; column < features; column++) {
        const center = signed(streamOf("center"), label * features + column);
        const noise = signed(streamOf("noise"), sample * features + column);
        inputs[row * features + column] = 0.5 * center + noise;
      }
    }
    return { inputs, targets };
  }
  const { vocabulary, context, batch } = GPTS[model];
  const tokens = new Int32Array(batch * context);
  const targets = new Int32Array(batch * context);
  for (let row = 0; row < batch; row++) {
    const sequence = index * batch + row;
    let token = hash(streamOf("start"), sequence) % vocabulary;
    for (let time = 0; time < context; time++) {
      tokens[row * context + time] = token;
      const chance = hash(streamOf("jump"), sequence * context + time);
      // Mostly a fixed successor, in one case of eight any token.
      token = chance % 8 === 0 ? (chance >>> 8) % vocabulary : (5 * token + 7) % vocabulary;
      targets[row * context + time] = token;
    }
  }
  return { inputs: tokens, targets };
}

/** FNV-1a of a name. */
function streamOf(name) {
  let state = 0x811c9dc5;
  for (const letter of name) state = Math.imul(state ^ letter.charCodeAt(0), 0x01000193) >>> 0;
  return state;
}

/** A 32-bit number for a place in a stream (finaliser of MurmurHash3). */
function hash(stream, index) {
  let x = (stream + Math.imul(index, 0x9e3779b9)) >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b) >>> 0;
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35) >>> 0;
  return (x ^ (x >>> 16)) >>> 0;
}

/** Uniform in [-1, 1), with 24 bits. */
function signed(stream, index) {
  return (hash(stream, index) >>> 8) / 2 ** 23 - 1;
}
