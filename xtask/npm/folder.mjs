// The files of a folder, by name.

import fs from 'node:fs/promises';
import path from 'node:path';

export async function readFiles(folder) {
  const names = await fs.readdir(folder);
  return Promise.all(names.map(async (name) => [name, await fs.readFile(path.join(folder, name))]));
}

export async function writeFiles(folder, files) {
  for (const [name, bytes] of files) {
    await fs.writeFile(path.join(folder, name), Uint8Array.from(bytes));
  }
}
