//! Waiting in a page: the stack is put aside until the page wakes it.
//!
//! This is JavaScript Promise Integration: `suspend` is an import that returns a promise, and the
//! export that the stack began with is called through `WebAssembly.promising`.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

#[link(wasm_import_module = "./suspend.js")]
unsafe extern "C" {
    /// Returns once `wake` was called since the last time.
    safe fn suspend();
    /// Lets `suspend` return.
    safe fn wake();
}

struct Page;

impl Wake for Page {
    fn wake(self: Arc<Self>) {
        wake();
    }
}

/// Runs a future to its end; the page's event loop goes on meanwhile.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Page));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => suspend(),
        }
    }
}
