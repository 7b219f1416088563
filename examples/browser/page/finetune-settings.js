// The settings of a fine-tuning run, as controls and as what the session takes.
import { $ } from './common.js';

/** Settings by the controls that have them. */
const NUMBERS = {
  steps: 'tune-steps', learningRate: 'tune-rate', batch: 'tune-batch', context: 'tune-context', rank: 'tune-rank', layers: 'tune-layers',
  alpha: 'tune-alpha', dropout: 'tune-dropout', clip: 'tune-clip', seed: 'tune-seed',
};
const CHOICES = { base: 'tune-base', targets: 'tune-targets' };
const SWITCHES = { maskPrompt: 'tune-mask', recompute: 'tune-recompute' };

/** The settings, or null where one is out of its range, which the browser then says beside it. */
export function readSettings() {
  const form = $('tune-form');
  const wrong = form.querySelector('input:invalid');
  if (wrong) {
    const fold = wrong.closest('details');
    if (fold) fold.open = true;
    form.reportValidity();
    return null;
  }
  const read = (controls, value) => Object.fromEntries(Object.entries(controls).map(([key, id]) => [key, value($(id))]));
  return {
    ...read(NUMBERS, (control) => Number(control.value)),
    // What is empty is left to the session.
    ...read(CHOICES, (control) => control.value || null),
    ...read(SWITCHES, (control) => control.checked),
  };
}

/** Sets the controls. */
export function showSettings(settings) {
  for (const [key, id] of Object.entries({ ...NUMBERS, ...CHOICES })) if (key in settings) $(id).value = settings[key] ?? '';
  for (const [key, id] of Object.entries(SWITCHES)) if (key in settings) $(id).checked = settings[key];
}
