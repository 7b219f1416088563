// What is kept in the origin's private file system: the files of a model, the examples, what was set,
// and the state of the run. For a worker, whose handles read and write at once.
//
// finetune/manifest.json    what is kept; written last, so without one a copy was cut short
// finetune/model/NAME       the files of the model
// finetune/data/NAME        the examples
// finetune/state-0, -1      states of the run, written in turn: a crash cuts off one of them at most

const FOLDER = 'finetune';
const MANIFEST = 'manifest.json';
const VERSION = 1;
const SLOTS = ['state-0', 'state-1'];
/** A state begins with the SHA-256 of what follows, a magic, its number and its length. */
const DIGEST = 32;
const HEADER = DIGEST + 8 + 8 + 8;
const MAGIC = 0x31746c656b6e6576n;
/** How long another tab, or this one before a reload, may take to let go of the files, in ms. */
const PATIENCE = 4000;

/** An error with a name that the page has advice for. */
export const named = (name, message) => Object.assign(new Error(message), { name });
const isMissing = (error) => error?.name === 'NotFoundError';
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export class Store {
  /** Takes the place for this tab alone. */
  static async open() {
    let root;
    try {
      root = await navigator.storage.getDirectory();
    } catch (error) {
      throw named('Storage', `The browser gives this page no private storage: ${error.message}`);
    }
    await takeLock();
    return new Store(root);
  }

  constructor(root) {
    Object.assign(this, { root, open: [], number: 0 });
  }

  folder(create = false) {
    return this.root.getDirectoryHandle(FOLDER, { create });
  }

  /** What is kept, or null. What a cut copy left is removed. */
  async manifest() {
    try {
      const folder = await this.folder();
      const manifest = JSON.parse(new TextDecoder().decode(await readAll(folder, MANIFEST)));
      if (manifest.version === VERSION) return manifest;
    } catch (error) {
      if (!isMissing(error) && !(error instanceof SyntaxError)) throw error;
    }
    await this.forget();
    return null;
  }

  async writeManifest(manifest) {
    await writeAll(await this.folder(true), MANIFEST, new TextEncoder().encode(JSON.stringify({ version: VERSION, ...manifest })));
  }

  /** Fails where there is no room for so many bytes. */
  async needRoom(needed) {
    const { quota = Infinity, usage = 0 } = (await navigator.storage.estimate?.()) ?? {};
    const free = quota - usage;
    if (needed > free) {
      const megabytes = (count) => Math.ceil(count / 1e6).toLocaleString('en');
      throw named('Room', `The files need ${megabytes(needed)} MB, and the browser leaves this page ${megabytes(Math.max(free, 0))} MB.`);
    }
  }

  /** Copies files {name: File} into the folder `kind`, in the place of what was there. */
  async replace(kind, files, progress) {
    this.close();
    const folder = await this.folder(true);
    // From here to the next manifest nothing whole is kept.
    await remove(folder, MANIFEST);
    await this.removeStates();
    await remove(folder, kind);
    await this.needRoom(Object.values(files).reduce((sum, file) => sum + file.size, 0));
    const inside = await folder.getDirectoryHandle(kind, { create: true });
    for (const [name, file] of Object.entries(files)) await copy(inside, name, file, progress);
  }

  /** Files of `kind` to read pieces of: {name: {size, read(start, end)}}. They stay open. */
  async sources(kind) {
    const folder = await (await this.folder()).getDirectoryHandle(kind);
    const sources = {};
    for await (const name of folder.keys()) {
      const access = await openFile(await folder.getFileHandle(name));
      this.open.push(access);
      sources[name] = { size: access.getSize(), read: (start, end) => readExactly(access, name, start, end) };
    }
    return sources;
  }

  /** Files of `kind` as bytes: {name: Uint8Array}. */
  async contents(kind) {
    const folder = await (await this.folder()).getDirectoryHandle(kind);
    const contents = {};
    for await (const name of folder.keys()) contents[name] = await readAll(folder, name);
    return contents;
  }

  /** Closes what `sources` opened. */
  close() {
    for (const access of this.open.splice(0)) access.close();
  }

  /** Writes a state beside the last one; `parts` are {name: Uint8Array}, `facts` anything JSON can say. */
  async saveState(facts, parts) {
    const entries = Object.entries(parts);
    const about = new TextEncoder().encode(JSON.stringify({ facts, sizes: entries.map(([name, part]) => [name, part.length]) }));
    const length = 4 + about.length + entries.reduce((sum, [, part]) => sum + part.length, 0);
    const all = new Uint8Array(HEADER + length);
    const view = new DataView(all.buffer);
    view.setBigUint64(DIGEST, MAGIC, true);
    view.setFloat64(DIGEST + 8, this.number + 1, true);
    view.setFloat64(DIGEST + 16, length, true);
    view.setUint32(HEADER, about.length, true);
    let at = HEADER + 4;
    for (const part of [about, ...entries.map(([, part]) => part)]) {
      all.set(part, at);
      at += part.length;
    }
    all.set(new Uint8Array(await crypto.subtle.digest('SHA-256', all.subarray(DIGEST))));
    const folder = await this.folder();
    await writeAll(folder, SLOTS[(this.number + 1) % SLOTS.length], all);
    this.number += 1;
  }

  /** The newest whole state, {facts, parts}, or null. */
  async loadState() {
    const folder = await this.folder();
    let newest = null;
    for (const slot of SLOTS) {
      const state = await readState(folder, slot);
      if (state && state.number > (newest?.number ?? 0)) newest = state;
    }
    this.number = newest?.number ?? 0;
    return newest && unpack(newest.payload);
  }

  async removeStates() {
    const folder = await this.folder();
    for (const slot of SLOTS) await remove(folder, slot);
    this.number = 0;
  }

  /** Removes all that is kept. */
  async forget() {
    this.close();
    await remove(this.root, FOLDER);
    this.number = 0;
  }
}

/** Holds the place until the worker ends. */
function takeLock() {
  return new Promise((resolve, reject) => {
    const options = { signal: AbortSignal.timeout(PATIENCE) };
    navigator.locks.request('evenkeel-finetune', options, () => {
      resolve();
      return new Promise(() => {});
    }).catch(() => reject(named('InUse', 'Another tab has the fine-tuning of this page open.')));
  });
}

/** A handle that reads and writes; one that was open before a reload may take a moment to go. */
async function openFile(file) {
  const start = performance.now();
  for (;;) {
    try {
      return await file.createSyncAccessHandle();
    } catch (error) {
      if (error.name !== 'NoModificationAllowedError') throw error;
      if (performance.now() - start > PATIENCE) throw named('InUse', `${file.name} is open in another tab.`);
      await pause(50);
    }
  }
}

function readExactly(access, name, start, end) {
  const bytes = new Uint8Array(end - start);
  const count = access.read(bytes, { at: start });
  if (count !== bytes.length) throw named('Storage', `${name} ends after ${start + count} bytes, and ${end} are wanted.`);
  return bytes;
}

async function readAll(folder, name) {
  const file = await (await folder.getFileHandle(name)).getFile();
  return new Uint8Array(await file.arrayBuffer());
}

async function writeAll(folder, name, bytes) {
  const access = await openFile(await folder.getFileHandle(name, { create: true }));
  try {
    access.truncate(0);
    writeExactly(access, name, bytes, 0);
    access.flush();
  } finally {
    access.close();
  }
}

function writeExactly(access, name, bytes, at) {
  if (access.write(bytes, { at }) !== bytes.length) throw named('Room', `There was no room for all of ${name}.`);
}

async function copy(folder, name, file, progress) {
  const access = await openFile(await folder.getFileHandle(name, { create: true }));
  try {
    access.truncate(0);
    let at = 0;
    const reader = file.stream().getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      writeExactly(access, name, value, at);
      at += value.length;
      progress(value.length);
    }
    access.flush();
  } catch (error) {
    if (error.name === 'NotReadableError' || isMissing(error)) {
      throw named('Unreadable', `${name} changed or went away while it was read.`);
    }
    throw error;
  } finally {
    access.close();
  }
}

async function remove(folder, name) {
  const start = performance.now();
  for (;;) {
    try {
      await folder.removeEntry(name, { recursive: true });
      return;
    } catch (error) {
      if (isMissing(error)) return;
      if (error.name !== 'NoModificationAllowedError' || performance.now() - start > PATIENCE) throw error;
      await pause(50);
    }
  }
}

/** {number, payload} of a state that is whole, or null. */
async function readState(folder, slot) {
  let all;
  try {
    all = await readAll(folder, slot);
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
  if (all.length < HEADER) return null;
  const view = new DataView(all.buffer);
  if (view.getBigUint64(DIGEST, true) !== MAGIC || view.getFloat64(DIGEST + 16, true) !== all.length - HEADER) return null;
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', all.subarray(DIGEST)));
  if (!digest.every((byte, i) => byte === all[i])) return null;
  return { number: view.getFloat64(DIGEST + 8, true), payload: all.subarray(HEADER) };
}

function unpack(payload) {
  const length = new DataView(payload.buffer, payload.byteOffset).getUint32(0, true);
  const { facts, sizes } = JSON.parse(new TextDecoder().decode(payload.subarray(4, 4 + length)));
  const parts = {};
  let at = 4 + length;
  for (const [name, size] of sizes) {
    parts[name] = payload.slice(at, at + size);
    at += size;
  }
  return { facts, parts };
}
