// Lines as Rust's test harness writes them.

export class Report {
  #passed = 0;
  #failures = [];

  add({ name, ok, ms, message }) {
    console.log(`test ${name} ... ${ok ? 'ok' : 'FAILED'} (${ms} ms)`);
    if (ok) this.#passed += 1;
    else this.#failures.push({ name, message });
  }

  /** Prints what failed and the sum; true if tests ran and all passed. */
  finish() {
    for (const { name, message } of this.#failures) console.log(`\n---- ${name} ----\n${message}`);
    const failed = this.#failures.length;
    const ok = failed === 0 && this.#passed > 0;
    console.log(
      `\ntest result: ${ok ? 'ok' : 'FAILED'}. ${this.#passed} passed; ${failed} failed; 0 ignored; ` +
        '0 measured; 0 filtered out\n',
    );
    return ok;
  }
}
