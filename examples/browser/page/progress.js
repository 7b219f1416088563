// How far copying and loading are, told now and then: {what, done, total}, in bytes.
import { now, post } from './loop.js';

/** Time between two words of it, in ms. */
const PAUSE = 100;

/** Tells of `what` as its bytes come. */
function counter(what, total) {
  let [done, last] = [0, 0];
  return (count) => {
    done += count;
    if (now() - last < PAUSE && done < total) return;
    last = now();
    post('progress', { what, done: Math.min(done, total), total });
  };
}

const sum = (files) => files.reduce((all, { size }) => all + size, 0);

/** A function that is told of each piece that is copied of files by kinds, {kind: {name: File}}. */
export const copying = (kinds) => counter('copy', sum(Object.values(kinds).flatMap((files) => Object.values(files ?? {}))));

/** Has files, {name: {size, read}}, tell what is read of them. */
export function watchReading(files) {
  const told = counter('load', sum(Object.values(files)));
  told(0);
  for (const file of Object.values(files)) {
    const { read } = file;
    file.read = (start, end) => {
      told(end - start);
      return read(start, end);
    };
  }
}
