// Files of the tests: what was there before, and what they write. The program that opened the page
// fills it, and takes it when the tests have run.

export const files = new Map();

export const read = (name) => files.get(name);
export const write = (name, bytes) => void files.set(name, bytes.slice());
