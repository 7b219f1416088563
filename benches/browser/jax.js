// The models in jax-js on its WebGPU device: a whole step, update included, is one jitted function.
import { defaultDevice, init, jit, nn, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
import { ADAM, GPTS, MAX_NORM, MLP, batch, initial, shapes, weightDecay } from "./problem.js";
import { serve } from "./page.js";

// An array is freed once every reference to it is used up; `.ref` makes one more.

function linear(p, name, x) {
  return np.dot(x, np.transpose(p[`${name}.weight`].ref)).add(p[`${name}.bias`].ref);
}

function mlpLoss(p, inputs, targets) {
  let x = inputs.reshape([MLP.batch, MLP.inputs]);
  MLP.hidden.forEach((_, layer) => (x = nn.relu(linear(p, `layers.${layer}.linear`, x))));
  const logits = linear(p, "head", x);
  tree.dispose(p);
  return crossEntropy(logits, targets, MLP.classes);
}

function crossEntropy(logits, targets, classes) {
  const rows = targets.shape[0];
  const picked = nn.logSoftmax(logits, -1).mul(nn.oneHot(targets, classes));
  return picked.sum().mul(-1 / rows);
}

const gptLoss = (config) => (p, inputs, targets) => {
  const { vocabulary, context, layers, heads, width, batch } = config;
  const norm = (x, name) => {
    const normed = nn.standardize(x, -1, { epsilon: 1e-5 });
    return normed.mul(p[`${name}.weight`].ref).add(p[`${name}.bias`].ref);
  };
  const attention = (x, name) => {
    const qkv = np.split(linear(p, `${name}.qkv`, x), 3, -1);
    const [query, key, value] = qkv.map((x) => x.reshape([batch, context, heads, width / heads]));
    const mixed = nn.dotProductAttention(query, key, value, { isCausal: true });
    return linear(p, `${name}.projection`, mixed.reshape([batch, context, width]));
  };
  const mlp = (x, name) => linear(p, `${name}.down`, nn.gelu(linear(p, `${name}.up`, x)));

  const tokens = nn.oneHot(inputs, vocabulary).reshape([batch, context, vocabulary]);
  const table = p["token_embedding.weight"];
  let x = np.dot(tokens, table.ref).add(p["position_embedding.weight"].ref);
  for (let layer = 0; layer < layers; layer++) {
    const block = `blocks.${layer}`;
    x = x.ref.add(attention(norm(x, `${block}.norm1`), `${block}.attention`));
    x = x.ref.add(mlp(norm(x, `${block}.norm2`), `${block}.mlp`));
  }
  const logits = np.dot(norm(x, "norm"), np.transpose(table.ref));
  tree.dispose(p);
  return crossEntropy(logits.reshape([batch * context, vocabulary]), targets, vocabulary);
};

/** One step: the new state and the loss. */
const step = (model, clip) => (state, inputs, targets) => {
  const { beta1, beta2, eps, learningRate } = ADAM;
  const loss = model === "mlp" ? mlpLoss : gptLoss(GPTS[model]);
  const { parameters, m, v, decay1, decay2 } = state;
  const [value, gradients] = valueAndGrad(loss)(tree.ref(parameters), inputs, targets);
  const names = Object.keys(parameters);
  let factor = np.array(1);
  if (clip) {
    const squares = names.map((name) => np.square(gradients[name].ref).sum());
    const norm = np.sqrt(squares.reduce((a, b) => a.add(b)));
    factor = np.minimum(1, np.trueDivide(MAX_NORM, norm));
  }
  const power1 = decay1.mul(beta1);
  const power2 = decay2.mul(beta2);
  const rate = np.trueDivide(learningRate, np.subtract(1, power1.ref));
  const correction = np.sqrt(np.subtract(1, power2.ref));
  const next = { parameters: {}, m: {}, v: {}, decay1: power1, decay2: power2 };
  for (const name of names) {
    const gradient = gradients[name].mul(factor.ref);
    const mean = m[name].mul(beta1).add(gradient.ref.mul(1 - beta1));
    const square = v[name].mul(beta2).add(np.square(gradient).mul(1 - beta2));
    const root = np.sqrt(square.ref).div(correction.ref).add(eps);
    const kept = 1 - learningRate * weightDecay(model, parameters[name].shape);
    const weight = kept === 1 ? parameters[name] : parameters[name].mul(kept);
    next.parameters[name] = weight.sub(mean.ref.mul(rate.ref).div(root));
    next.m[name] = mean;
    next.v[name] = square;
  }
  tree.dispose([factor, rate, correction]);
  return [next, value];
};

serve(async (model, clip) => {
  if (!(await init("webgpu")).includes("webgpu")) throw new Error("jax-js has no WebGPU device");
  defaultDevice("webgpu");
  const sizes = Object.entries(shapes(model));
  const zeros = () => Object.fromEntries(sizes.map(([name, shape]) => [name, np.zeros(shape)]));
  const values = ([name, shape]) => [name, np.array(initial(name, shape)).reshape(shape)];
  let state = {
    parameters: Object.fromEntries(sizes.map(values)),
    m: zeros(),
    v: zeros(),
    decay1: np.array(1),
    decay2: np.array(1),
  };
  const jitted = jit(step(model, clip));
  const losses = [];
  let steps = 0;
  return {
    step() {
      const { inputs, targets } = batch(model, steps++);
      const [next, loss] = jitted(state, np.array(inputs), np.array(targets));
      state = next;
      losses.push(loss);
    },
    async finish() {
      await losses.at(-1).blockUntilReady();
    },
    async losses() {
      const read = await Promise.all(losses.map((loss) => loss.data()));
      return read.map(([loss]) => loss);
    },
  };
});
