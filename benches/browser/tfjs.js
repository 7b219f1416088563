// The models in TensorFlow.js on its WebGPU backend.
import * as tf from "@tensorflow/tfjs";
import "@tensorflow/tfjs-backend-webgpu";
import { ADAM, GPTS, MAX_NORM, MLP, batch, initial, shapes, weightDecay } from "./problem.js";
import { serve } from "./page.js";

function mlpLoss(p, { inputs, targets }) {
  const layer = (x, name, activation) =>
    tf.fused.matMul({
      a: x,
      b: p[`${name}.weight`],
      transposeB: true,
      bias: p[`${name}.bias`],
      activation,
    });
  let x = tf.tensor2d(inputs, [MLP.batch, MLP.inputs]);
  MLP.hidden.forEach((_, index) => (x = layer(x, `layers.${index}.linear`, "relu")));
  const logits = layer(x, "head", "linear");
  return crossEntropy(logits, targets, MLP.classes);
}

function crossEntropy(logits, targets, classes) {
  const labels = tf.oneHot(tf.tensor1d(targets, "int32"), classes);
  return tf.losses.softmaxCrossEntropy(labels, logits);
}

const gptLoss = (config) => (p, { inputs, targets }) => {
  const { vocabulary, context, layers, heads, width, batch } = config;
  const rows = batch * context;
  const linear = (x, name) =>
    tf.fused.matMul({
      a: x,
      b: p[`${name}.weight`],
      transposeB: true,
      bias: p[`${name}.bias`],
    });
  const norm = (x, name) => {
    const { mean, variance } = tf.moments(x, -1, true);
    const normed = x.sub(mean).mul(variance.add(1e-5).rsqrt());
    return normed.mul(p[`${name}.weight`]).add(p[`${name}.bias`]);
  };
  const split = (x) => x.reshape([batch, context, heads, width / heads]).transpose([0, 2, 1, 3]);
  const attention = (x, name) => {
    const [query, key, value] = tf.split(linear(x, `${name}.qkv`), 3, 1).map(split);
    const logits = tf.matMul(query, key, false, true).mul(1 / Math.sqrt(width / heads));
    const weights = tf.softmax(logits.add(mask));
    const mixed = tf.matMul(weights, value).transpose([0, 2, 1, 3]).reshape([rows, width]);
    return linear(mixed, `${name}.projection`);
  };
  const mlp = (x, name) => linear(gelu(linear(x, `${name}.up`)), `${name}.down`);

  const tokens = tf.oneHot(tf.tensor1d(inputs, "int32"), vocabulary).toFloat();
  const positions = p["position_embedding.weight"];
  const table = p["token_embedding.weight"];
  let x = tf.matMul(tokens, table).reshape([batch, context, width]).add(positions);
  x = x.reshape([rows, width]);
  for (let layer = 0; layer < layers; layer++) {
    const block = `blocks.${layer}`;
    x = x.add(attention(norm(x, `${block}.norm1`), `${block}.attention`));
    x = x.add(mlp(norm(x, `${block}.norm2`), `${block}.mlp`));
  }
  const logits = tf.matMul(norm(x, "norm"), table, false, true);
  return crossEntropy(logits, targets, vocabulary);
};

function gelu(x) {
  const inner = x.mul(x).mul(x).mul(0.044715).add(x).mul(Math.sqrt(2 / Math.PI));
  return inner.tanh().add(1).mul(x).mul(0.5);
}

/** (context, context): 0 where a query may look, far below elsewhere. */
let mask;

serve(async (model, clip) => {
  await tf.setBackend("webgpu");
  await tf.ready();
  if (tf.getBackend() !== "webgpu") throw new Error(`tfjs runs on ${tf.getBackend()}`);
  const parameters = {};
  const decayed = {};
  for (const [name, shape] of Object.entries(shapes(model))) {
    parameters[name] = tf.variable(tf.tensor(initial(name, shape), shape), true, name);
    const decay = weightDecay(model, shape);
    if (decay > 0) decayed[name] = 1 - ADAM.learningRate * decay;
  }
  if (GPTS[model]) {
    const { context } = GPTS[model];
    mask = tf.tidy(() => tf.linalg.bandPart(tf.ones([context, context]), -1, 0).sub(1).mul(1e9));
    tf.keep(mask);
  }
  const optimizer = tf.train.adam(ADAM.learningRate, ADAM.beta1, ADAM.beta2, ADAM.eps);
  const lossOf = model === "mlp" ? mlpLoss : gptLoss(GPTS[model]);
  const clipped = (grads) => {
    const squares = Object.values(grads).map((gradient) => gradient.square().sum());
    // Its addN of so many scalars comes to another sum on this backend.
    const norm = tf.stack(squares).sum().sqrt();
    const factor = tf.minimum(1, tf.div(MAX_NORM, norm));
    for (const name in grads) grads[name] = grads[name].mul(factor);
  };
  const losses = [];
  let steps = 0;
  return {
    step() {
      const data = batch(model, steps++);
      losses.push(
        tf.tidy(() => {
          const { value, grads } = tf.variableGrads(() => lossOf(parameters, data));
          if (clip) clipped(grads);
          for (const [name, factor] of Object.entries(decayed)) {
            parameters[name].assign(parameters[name].mul(factor));
          }
          optimizer.applyGradients(grads);
          return value;
        }),
      );
    },
    finish: () => losses.at(-1).data(),
    losses: () => Promise.all(losses.map(async (loss) => (await loss.data())[0])),
  };
});
