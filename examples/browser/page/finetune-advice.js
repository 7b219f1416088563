// What to do about what went wrong with a fine-tuning run.

const SMALLER = ['Choose 4 bits for the weights, fewer examples in a step, shorter examples, fewer of the last layers, or recomputed activations under “More”; then load again.',
  'If that is not enough, choose a smaller model.'];

export const ADVICE = {
  OutOfMemory: { title: 'The GPU is out of memory.', list: SMALLER },
  Limit: { title: 'This device is too small for these settings.', list: SMALLER },
  RuntimeError: { title: 'The tab is out of memory, or the program failed.', list: ['Reload the page and resume: what was saved is still there.', ...SMALLER], retry: true },
  DeviceLost: {
    title: 'The GPU device was lost, and no new one could be had.',
    list: ['Reload the page and resume: what was saved is still there.'],
    retry: true,
  },
  GaveUp: { title: 'Training has given up.', list: ['Choose a lower learning rate and load again.'] },
  Checkpoint: {
    title: 'The state that was kept does not fit this run.',
    list: ['“Load and check” begins anew with the model and the examples that are kept.'],
  },
  ModelFile: { title: 'This model cannot be read.', list: ['If the message names a file, get it again; supported are GPT-2, Llama, Mistral, Qwen and Gemma, and GGUF files of them.'] },
  Data: { title: 'These examples will not do.', list: ['Mend the file, choose it again, and load.'] },
  Tokenizer: { title: 'The tokenizer cannot be read.', list: ['Get tokenizer.json again, from where the model is from.'] },
  Template: { title: 'The chat template cannot be used.', list: ['Get tokenizer_config.json again, or chat_template.jinja if there is one.'] },
  Setting: { title: 'A setting is out of range.', list: [] },
  Storage: { title: 'The files cannot be kept.', list: ['Leave the private window, allow this page to store data, or choose the files again.'] },
  SecurityError: { title: 'The files cannot be kept.', list: ['Leave the private window, or allow this page to store data.'] },
  Room: { title: 'There is no room for it.', list: ['Free space on the disk, remove other pages’ data in the browser’s settings, or choose a smaller model.'] },
  QuotaExceededError: { title: 'There is no room for it.', list: ['Free space on the disk, remove other pages’ data in the browser’s settings, or choose a smaller model.'] },
  InUse: { title: 'Another tab is fine-tuning.', list: ['Close it, or go on there; then reload this one.'], retry: true },
  Unreadable: { title: 'A file could not be read.', list: ['Choose the files again.'] },
  Unsaved: { title: 'The state could not be saved; training goes on.', list: ['Until there is room again, a reload goes back to the last state that was saved. The adapter can be downloaded at any time.'] },
};
