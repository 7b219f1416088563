// The two tasks of the page: which one is shown, and when the second one's script is fetched.
import { $, showAdvice } from './common.js';

/** Of each task: what is shown with it, and what the address ends with. */
const TASKS = {
  scratch: { parts: ['scratch-head', 'scratch'], hash: '' },
  tune: { parts: ['tune-head', 'tune'], hash: '#fine-tune' },
};
const listeners = [];
let chosen = null;

function choose(task) {
  if (task === chosen) return;
  chosen = task;
  for (const [name, { parts }] of Object.entries(TASKS)) {
    $(`choose-${name}`).checked = name === task;
    for (const id of parts) $(id).hidden = name !== task;
  }
  $('alert').hidden = true;
  $('skip').href = task === 'tune' ? '#tune-setup' : '#charts';
  // Where a script is fetched once, importing it again does nothing.
  if (task === 'tune') import('./finetune.js').catch((error) => showAdvice({ name: 'Worker', message: error.message }));
  for (const tell of listeners) tell(task);
}

/** Tells a listener which task is shown: now, and whenever another is chosen. */
export function whenChosen(listener) {
  listeners.push(listener);
  if (chosen) listener(chosen);
  else choose(location.hash === TASKS.tune.hash ? 'tune' : 'scratch');
}

for (const [name, { hash }] of Object.entries(TASKS)) {
  $(`choose-${name}`).onchange = () => {
    history.replaceState(null, '', `${location.pathname}${location.search}${hash}`);
    choose(name);
  };
}
addEventListener('hashchange', () => location.hash === TASKS.tune.hash && choose('tune'));

/** Says beside the choice that a run is kept from before. */
async function tellKept() {
  const root = await navigator.storage?.getDirectory?.();
  const folder = await root?.getDirectoryHandle('finetune');
  await folder?.getFileHandle('manifest.json');
  $('choose-kept').hidden = !folder;
}
tellKept().catch(() => {});
