// What to do about what went wrong.

const BROWSERS = [
  'Chrome or Edge 113 and later on Windows, macOS and ChromeOS, 121 and later on Android; on Linux enable “Unsafe WebGPU Support” and Vulkan under chrome://flags.',
  'Safari 26 and later on macOS, iOS and iPadOS.',
  'Firefox 141 and later on Windows, 145 and later on macOS with Apple silicon; elsewhere Firefox Nightly.',
];

const ADVICE = {
  NoWebGpu: {
    title: 'This browser offers no WebGPU.',
    list: BROWSERS,
  },
  NoAdapter: {
    title: 'The browser has WebGPU, but gave no adapter.',
    list: [
      'Update the graphics driver and the browser, and see that hardware acceleration is on in the browser’s settings.',
      'Look at chrome://gpu or about:support for the reason; on Linux enable “Unsafe WebGPU Support” and Vulkan under chrome://flags.',
      'After several crashes of the GPU a browser gives no adapter until it is restarted.',
    ],
    retry: true,
  },
  NoDevice: {
    title: 'The adapter refused to give a device.',
    list: ['Close other tabs that use the GPU and reload, or restart the browser.'],
    retry: true,
  },
  OutOfMemory: {
    title: 'The GPU is out of memory.',
    list: ['Choose a smaller model, batch or context under “With a new run”, and start again.'],
  },
  Limit: {
    title: 'This device is too small for these settings.',
    list: ['Choose a smaller model, batch or context under “With a new run”, and start again.'],
  },
  DeviceLost: {
    title: 'The GPU device was lost, and no new one could be had.',
    list: ['Reload the page. A checkpoint that was saved before can be loaded there.'],
    retry: true,
  },
  GaveUp: {
    title: 'Training has given up.',
    list: ['“Reset” begins anew. With the stability features on, a run goes back before it comes to this.'],
  },
  Checkpoint: {
    title: 'This checkpoint does not fit the run.',
    list: ['Start a run with the task, model, context and precision that it was saved from, then load it. Its name says which.'],
  },
  Setting: { title: 'A setting is out of range.', list: [] },
  Data: { title: 'This text will not do.', list: [] },
};

/** Title, list of things to do, and whether a reload may help; `own` goes before what holds of all tasks. */
export function advice(name, message, own = {}) {
  if (name === 'NoWebGpu' && !isSecureContext) {
    return { title: 'WebGPU needs a secure page.', list: ['Open this page over https, or from localhost.'], retry: false };
  }
  const known = own[name] ?? ADVICE[name] ?? { title: 'Something went wrong.', list: ['Reload the page; if it comes again, the message above says where to look.'], retry: true };
  return { retry: false, ...known, message };
}
