// What the visitor chose or dropped: which of it is the model, which the examples, and what is missing.
//
// An entry is {path, file}. A model is {name, files: {name: File}, problems: [string]}, examples the same.

const SINGLE = 'model.safetensors';
const INDEX = 'model.safetensors.index.json';
/** What a folder of a model has besides its weights. */
const SMALL = /^((tokenizer_|generation_)?config|tokenizer|special_tokens_map|model\.safetensors\.index|chat_template)\.json$|^chat_template\.jinja$/;
const TOKENIZER = /^((tokenizer_|generation_)config|tokenizer|special_tokens_map|chat_template)\.json$|^chat_template\.jinja$/;
/** Folders are followed this deep, and this many files of them looked at. */
const DEEPEST = 3;
const MOST_FILES = 2000;

const basename = (path) => path.slice(path.lastIndexOf('/') + 1);
const folderOf = (path) => path.slice(0, path.length - basename(path).length);
const depth = (path) => path.split('/').length;

/** Entries of an input of files or of a folder. */
export const entriesOfInput = (input) => [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));

/** Entries of what was dropped, folders and what is in them included. */
export async function entriesOfDrop(data) {
  // The list of items is gone after the event.
  const roots = [...data.items].filter((item) => item.kind === 'file').map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  const entries = [];
  for (const root of roots) await collect(root, entries, 0);
  return entries;
}

async function collect(entry, entries, level) {
  if (!entry || entries.length >= MOST_FILES) return;
  if (entry instanceof File) {
    entries.push({ path: entry.name, file: entry });
  } else if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    entries.push({ path: entry.fullPath.replace(/^\//, ''), file });
  } else if (level < DEEPEST) {
    const reader = entry.createReader();
    for (;;) {
      // Some at a time, until there are none.
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (some.length === 0) break;
      for (const each of some) await collect(each, entries, level + 1);
    }
  }
}

/** {model, data}: each null where nothing of it is among the entries. */
export async function tellApart(entries) {
  const named = entries.filter(({ path }) => !basename(path).startsWith('.'));
  return { model: await findModel(named), data: findData(named) };
}

async function findModel(entries) {
  const gguf = entries.filter(({ path }) => path.toLowerCase().endsWith('.gguf'));
  const configs = entries.filter(({ path }) => basename(path) === 'config.json').sort((a, b) => depth(a.path) - depth(b.path));
  const hasWeights = (folder) => entries.some(({ path }) => folderOf(path) === folder && path.endsWith('.safetensors'));
  if (configs.length > 0 && (gguf.length === 0 || hasWeights(folderOf(configs[0].path)))) return folderModel(folderOf(configs[0].path), entries);
  if (gguf.length > 0) return ggufModel(gguf, entries);
  const loose = entries.find(({ path }) => /\.(safetensors|bin|pth|pt)$/.test(path) || basename(path) === 'tokenizer.json');
  if (!loose) return null;
  const adapter = entries.some(({ path }) => basename(path) === 'adapter_config.json');
  const model = await folderModel(folderOf(loose.path), entries);
  if (adapter) model.problems = ['This is an adapter, not a model. Choose the folder of the model that it was trained on.'];
  return model;
}

/** A GGUF file, and the files of a tokenizer beside it, for one that has none. */
function ggufModel([{ path, file }, ...others], entries) {
  const files = { [basename(path)]: file };
  for (const beside of entries) if (folderOf(beside.path) === folderOf(path) && TOKENIZER.test(basename(beside.path))) files[basename(beside.path)] = beside.file;
  const names = [path, ...others.map((other) => other.path)].map(basename).join(', ');
  const problems = others.length > 0 ? [`There are ${others.length + 1} GGUF files (${names}). Choose the one you want.`] : [];
  return { name: basename(path).replace(/\.gguf$/i, ''), files, problems };
}

async function folderModel(folder, entries) {
  const inside = new Map(entries.filter(({ path }) => folderOf(path) === folder).map(({ path, file }) => [basename(path), file]));
  const files = {};
  for (const [name, file] of inside) if (SMALL.test(name)) files[name] = file;
  const problems = [];
  if (!inside.has('config.json')) {
    problems.push('There is no config.json, which says what kind of model it is. Choose all the files of the model together, or its folder.');
  }
  if (!inside.has('tokenizer.json')) {
    const other = inside.has('tokenizer.model') || inside.has('vocab.json');
    problems.push(`There is no tokenizer.json, without which no text can be read. ${other
      ? 'save_pretrained of AutoTokenizer in a newer transformers makes one of the tokenizer that is there.'
      : 'Choose all the files of the model together, or its folder.'}`);
  }
  const weights = await findWeights(inside);
  problems.push(...weights.problems);
  for (const name of weights.names) files[name] = inside.get(name);
  return { name: basename(folder.replace(/\/$/, '')) || 'model', files, problems };
}

/** The files of weights that are read. */
async function findWeights(inside) {
  if (inside.has(SINGLE)) return { names: [SINGLE], problems: [] };
  if (!inside.has(INDEX)) {
    const old = [...inside.keys()].some((name) => /\.(bin|pth|pt)$/.test(name));
    const problem = old
      ? 'The weights are in an old form (.bin or .pth). save_pretrained of a newer transformers makes model.safetensors of them.'
      : `There are no weights: ${SINGLE}, or its parts with ${INDEX}, or one .gguf file.`;
    return { names: [], problems: [problem] };
  }
  let names;
  try {
    names = [...new Set(Object.values(JSON.parse(await inside.get(INDEX).text()).weight_map))];
  } catch {
    return { names: [], problems: [`${INDEX} cannot be read. Get it again.`] };
  }
  const missing = names.filter((name) => !inside.has(name));
  const problems = missing.length > 0 ? [`Of the weights ${missing.join(', ')} ${missing.length > 1 ? 'are' : 'is'} missing. Choose the whole folder.`] : [];
  return { names: names.filter((name) => inside.has(name)), problems };
}

function findData(entries) {
  const lines = entries.filter(({ path }) => path.toLowerCase().endsWith('.jsonl'));
  if (lines.length === 0) return null;
  const train = lines.filter(({ path }) => basename(path) === 'train.jsonl').sort((a, b) => depth(a.path) - depth(b.path))[0];
  if (train) {
    const valid = lines.find(({ path }) => path === `${folderOf(train.path)}valid.jsonl`);
    return { name: 'train.jsonl', files: { 'train.jsonl': train.file, ...(valid && { 'valid.jsonl': valid.file }) }, problems: [] };
  }
  const name = basename(lines[0].path);
  const problems = lines.length > 1
    ? [`There are ${lines.length} JSONL files (${lines.map(({ path }) => basename(path)).join(', ')}). Name the one to learn from train.jsonl, and valid.jsonl the one to measure on.`]
    : [];
  return { name, files: { [name]: lines[0].file }, problems };
}

/** What is there and what is missing, in words: [{text, state: 'there' | 'missing' | ''}]. */
export function describe({ model, data }) {
  const size = (files) => Object.values(files).reduce((sum, file) => sum + file.size, 0);
  const lines = [];
  if (model) lines.push({ text: `Model: ${model.name}, ${plural(Object.keys(model.files).length, 'file')}, ${bytes(size(model.files))}`, state: model.problems.length ? '' : 'there' });
  else lines.push({ text: 'No model yet: choose its folder, or a GGUF file.', state: '' });
  for (const problem of model?.problems ?? []) lines.push({ text: problem, state: 'missing' });
  if (data) lines.push({ text: `Examples: ${Object.keys(data.files).join(' and ')}, ${bytes(size(data.files))}`, state: data.problems.length ? '' : 'there' });
  else lines.push({ text: 'No examples yet: choose a .jsonl file, or a folder with train.jsonl.', state: '' });
  for (const problem of data?.problems ?? []) lines.push({ text: problem, state: 'missing' });
  return lines;
}

/** Whether a run can be made of it. */
export const isComplete = ({ model, data }) => Boolean(model && data) && model.problems.length + data.problems.length === 0;

export const plural = (count, noun) => `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`;

/** A number of bytes in few characters. */
export function bytes(count) {
  for (const [unit, size] of [['GB', 1e9], ['MB', 1e6], ['KB', 1e3]]) {
    if (count >= size) return `${Number((count / size).toPrecision(3))} ${unit}`;
  }
  return plural(count, 'byte');
}
