//! The chapters of the book (docs/book), so that the tests of the documentation compile their code.
//! A packaged crate has neither the book nor this need of it.

macro_rules! chapters {
    ($($name:ident = $path:literal,)*) => {
        $(#[doc = include_str!($path)] mod $name {})*
    };
}

chapters! {
    readme = "../README.md",
    introduction = "../docs/book/src/introduction.md",
    first_run = "../docs/book/src/first-run.md",
    fine_tune = "../docs/book/src/fine-tune.md",
    train = "../docs/book/src/train.md",
    commands = "../docs/book/src/commands.md",
    from_mlx_lm = "../docs/book/src/from-mlx-lm.md",
    from_pytorch = "../docs/book/src/from-pytorch.md",
    when_training_goes_wrong = "../docs/book/src/when-training-goes-wrong.md",
    guide = "../docs/book/src/guide.md",
    own_model = "../docs/book/src/own-model.md",
    own_operation = "../docs/book/src/own-operation.md",
    own_kernel = "../docs/book/src/own-kernel.md",
    browser = "../docs/book/src/browser.md",
    memory = "../docs/book/src/memory.md",
    performance = "../docs/book/src/performance.md",
    several_machines = "../docs/book/src/several-machines.md",
    scaling = "../docs/book/src/scaling.md",
    how_it_works = "../docs/book/src/how-it-works.md",
    architecture = "../docs/book/src/architecture.md",
}
