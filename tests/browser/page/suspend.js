// How the tests wait in a page: see ../src/suspend.rs.

let isAwake = false;
let resume = null;

export function wake() {
  isAwake = true;
  resume?.();
}

export const suspend = new WebAssembly.Suspending(async () => {
  if (!isAwake) await new Promise((resolve) => (resume = resolve));
  isAwake = false;
  resume = null;
});
