//! Gradients that leave while the backward pass goes on: when each piece of them is ready, as seen on
//! the device, and steps of several pieces.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use evenkeel::nn::lora::{Lora, Targets};
use evenkeel::nn::{Gpt, GptConfig, LanguageModel};
use evenkeel::step::Reason;
use evenkeel::train::ranks::{Begun, Exchange, GradientPiece, Local};
use evenkeel::train::{Batch, Clip, Model, Sgd, Trainer, TrainerBuilder};
use evenkeel::{Gpu, Result};

use crate::support::models::{Terms, small_gpt_batch};
use crate::support::{block_on, gpu, gpu_with_bindings, tokens};
use crate::{all_the_same, on_ranks, run, run_alone};

/// Bytes of a piece, as small as tensors here are.
const PIECE: u64 = 256;

fn bytes(gpu: &Gpu, buffers: &[wgpu::Buffer]) -> Vec<Vec<u8>> {
    let read = |buffer: &wgpu::Buffer| {
        block_on(gpu.read(buffer, 0, buffer.size() as usize)).expect("bytes")
    };
    buffers.iter().map(read).collect()
}

/// By piece, behind which dispatch of a step its bytes changed for the last time, where the gradients
/// of the last microbatch are added to zeros: as found on the device, a dispatch at a time.
fn last_changes<M: Model>(trainer: &Trainer<M>, pieces: &[GradientPiece]) -> Vec<usize> {
    let (gpu, plan, microbatches) = (trainer.gpu(), trainer.plan(), trainer.microbatches());
    let (list, before) = if microbatches == 1 {
        (&plan.first, 0)
    } else {
        let later = (microbatches - 1) * (plan.count_next.len() + plan.next.len());
        (&plan.next, plan.first.len() + later - plan.next.len())
    };
    let buffers = trainer.gradient_buffers();
    for buffer in buffers {
        gpu.write(buffer, 0, &vec![0; buffer.size() as usize]);
    }
    let mut last = vec![0; pieces.len()];
    let mut known = bytes(gpu, buffers);
    for (behind, dispatch) in (before + 1..).zip(list) {
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        gpu.encode(&mut encoder, [dispatch]);
        gpu.submit(encoder);
        let now = bytes(gpu, buffers);
        for (last, piece) in last.iter_mut().zip(pieces) {
            let part = piece.offset as usize..(piece.offset + piece.bytes) as usize;
            if now[piece.segment][part.clone()] != known[piece.segment][part] {
                *last = behind;
            }
        }
        known = now;
    }
    last
}

/// The pieces of a run after its first step, so that nothing in it is 0 by its start.
#[track_caller]
fn check<M: Model>(
    what: &str,
    gpu: &Gpu,
    builder: TrainerBuilder<M>,
    batch: &Batch,
    is_exact: bool,
) -> Vec<GradientPiece> {
    let mut trainer = block_on(builder.build(gpu)).expect("a trainer");
    for _ in 0..2 {
        block_on(trainer.step(batch)).expect("a step");
    }
    let pieces = trainer.gradient_pieces(PIECE);
    let total: u64 = trainer.gradient_buffers().iter().map(wgpu::Buffer::size).sum();
    assert_eq!(pieces.iter().map(|piece| piece.bytes).sum::<u64>(), total, "{what}");
    assert!(pieces.is_sorted_by_key(|piece| piece.ready), "{what}: {pieces:?}");
    for (piece, last) in pieces.iter().zip(last_changes(&trainer, &pieces)) {
        // Some lie between tensors.
        assert!(last <= piece.ready, "{what}: {piece:?} changes behind {last}");
        assert!(!is_exact || last == piece.ready, "{what}: {piece:?} is ready behind {last}");
    }
    pieces
}

fn model(config: GptConfig, batch: usize) -> LanguageModel {
    LanguageModel { gpt: Gpt::new(config).expect("valid"), batch, time: 8 }
}

#[test]
fn pieces_are_ready_when_their_bytes_stop_changing() {
    let Some(gpu) = gpu() else { return };
    let gpt = || GptConfig { dropout: 0.1, ..GptConfig::gpt2(27, 8, 2, 2, 16) };
    let lora = Lora::new(4, 8.0, Targets::AllLinear);
    let configs = [
        ("a tied head", gpt()),
        ("a head of its own", GptConfig { tied_head: false, ..gpt() }),
        ("logits in parts", GptConfig { logits_budget: 4 << 10, ..gpt() }),
        ("recomputation", GptConfig { recompute: true, ..gpt() }),
        ("LoRA", GptConfig { lora: Some(lora), ..gpt() }),
        ("rotary positions and grouped heads", GptConfig::llama(27, 8, 2, [2, 1], 16)),
    ];
    for (what, config) in configs {
        for microbatches in [1, 3] {
            let builder = || Trainer::builder(model(config.clone(), 8)).accumulation(microbatches);
            let batch = small_gpt_batch(1, 8 * microbatches);
            let pieces = check(what, &gpu, builder(), &batch, true);
            // Many times before the end: most of it goes on while pieces are on their way.
            let mut ready: Vec<_> = pieces.iter().map(|piece| piece.ready).collect();
            ready.dedup();
            assert!(ready.len() > 10, "{what}: {ready:?}");
            // The embedding, which lies first, is last.
            let last = pieces.iter().filter(|piece| Some(&piece.ready) == ready.last());
            let first = last.map(|piece| (piece.segment, piece.offset)).min();
            assert!(config.lora.is_some() || first == Some((0, 0)), "{what}: {pieces:?}");
        }
    }
}

/// Of a table in parts, of which tokens use some rows.
#[test]
fn pieces_of_tensors_in_parts_are_not_ready_before_they_are() {
    let Some(gpu) = gpu_with_bindings(49_152) else { return };
    let ids = |seed| tokens(seed, 8, 1000);
    let batch = Batch::new().with("tokens", ids(1)).with("targets", ids(2));
    let builder = Trainer::builder(model(GptConfig::gpt2(1000, 8, 1, 2, 32), 1));
    let pieces = check("parts", &gpu, builder, &batch, false);
    assert!(pieces.iter().any(|piece| piece.segment > 0), "{pieces:?}");
}

/// Three pieces of 4 MiB, and a fourth.
fn large() -> Terms {
    Terms {
        tensors: vec![(vec![1100, 1000], 1.0), (vec![900, 1000], 1.0), (vec![1300, 1000], 1.0)],
    }
}

fn sgd() -> TrainerBuilder<Terms> {
    let optimizer = Sgd { learning_rate: 10.0, ..Sgd::default() };
    Trainer::builder(large()).optimizer(optimizer).clip(Clip::Norm(0.1)).seed(5)
}

/// What a rank begins in its exchange, in order.
#[derive(Debug)]
struct Noted {
    local: Local,
    begun: RefCell<String>,
}

impl Exchange for Noted {
    fn rank(&self) -> usize {
        self.local.rank()
    }

    fn size(&self) -> usize {
        self.local.size()
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        self.local.scatter(sent, parts, received)
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        self.local.share(bytes, parts)
    }

    fn begin_scatter(&self, sent: &[u8], parts: &[Range<usize>]) -> Result<Begun> {
        self.begun.borrow_mut().push('s');
        self.local.begin_scatter(sent, parts)
    }

    fn begin_share(&self, bytes: Vec<u8>, parts: &[Range<usize>]) -> Result<Begun> {
        self.begun.borrow_mut().push('g');
        self.local.begin_share(bytes, parts)
    }

    fn end(&self, begun: Begun) -> Result<Vec<u8>> {
        self.begun.borrow_mut().push('.');
        self.local.end(begun)
    }
}

#[test]
fn several_pieces_are_on_their_way_and_no_bit_differs() {
    let Some(gpu) = gpu() else { return };
    let batches: Vec<_> = (1..4).map(|seed| large().data(seed, 2).batch()).collect();
    let together = on_ranks(2, |exchange| run(&gpu, sgd(), exchange, &batches));
    let together = all_the_same("pieces", together);
    let alone = run_alone(&gpu, sgd().accumulation(2), &batches);
    assert!(together.0 == alone.0, "not the run of one process");
    let begun = on_ranks(2, |local| {
        let rank = local.rank();
        let noted = Rc::new(Noted { local, begun: RefCell::default() });
        let mut trainer = block_on(sgd().exchange(noted.clone()).build(&gpu)).expect("a trainer");
        let share = batches[0].of_rank(rank, 2).expect("even");
        block_on(trainer.step(&share)).expect("a step");
        noted.begun.take()
    });
    // Three pieces are scattered when the sums of the first are on their way.
    assert_eq!(begun, ["sss.gs.g.g.g....".to_owned(), "sss.gs.g.g.g....".to_owned()]);
}

/// With accumulation only the last microbatch overlaps; sums of microbatches come first.
#[test]
fn microbatches_are_added_before_pieces_leave() {
    let Some(gpu) = gpu() else { return };
    let batches: Vec<_> = (1..3).map(|seed| large().data(seed, 4).batch()).collect();
    let builder = || sgd().accumulation(2).compare_ranks_every(1);
    let together = on_ranks(2, |exchange| run(&gpu, builder(), exchange, &batches));
    let (state, records) = all_the_same("microbatches", together);
    assert!(records.iter().all(|record| record.applied));
    // In the order of the ranks: both microbatches of one, then those of the other.
    let halves = on_ranks(2, |exchange| {
        let exchange: Rc<dyn Exchange> = Rc::new(Blocking(exchange));
        let rank = exchange.rank();
        let mut trainer = block_on(builder().exchange(exchange).build(&gpu)).expect("a trainer");
        for batch in &batches {
            let share = batch.of_rank(rank, 2).expect("even");
            block_on(trainer.step(&share)).expect("a step");
        }
        crate::state(&trainer)
    });
    assert!(halves.iter().all(|half| *half == state), "one piece after the other is another run");
}

/// An exchange of which nothing goes on beside anything else.
#[derive(Debug)]
struct Blocking(Local);

impl Exchange for Blocking {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn scatter(&self, sent: &[u8], parts: &[Range<usize>], received: &mut [u8]) -> Result<()> {
        self.0.scatter(sent, parts, received)
    }

    fn share(&self, bytes: &mut [u8], parts: &[Range<usize>]) -> Result<()> {
        self.0.share(bytes, parts)
    }
}

/// Wherever it lies: in the piece that leaves first, or in the last one.
#[test]
fn a_fault_in_any_piece_skips_the_step_on_all() {
    let Some(gpu) = gpu() else { return };
    let good = large().data(1, 2);
    let pieces = {
        let trainer = block_on(sgd().build(&gpu)).expect("a trainer");
        trainer.gradient_pieces(4 << 20)
    };
    assert_eq!(pieces.len(), 4);
    let clean = [good.batch(), good.batch()];
    let ranks = on_ranks(2, |exchange| run(&gpu, sgd(), exchange, &clean));
    let (control, _) = all_the_same("no fault", ranks);
    let counts = [1_100_000, 900_000, 1_300_000];
    for piece in [pieces[0], pieces[3]] {
        // Tensors have whole quads, and lie one after the other, each from a multiple of 512 bytes on.
        let mut element = piece.offset as usize / 4 + 300;
        let mut tensor = 0;
        while element >= counts[tensor] {
            element -= counts[tensor].next_multiple_of(128);
            tensor += 1;
        }
        for rank in 0..2 {
            let mut bad = good.clone();
            bad.targets[tensor][rank * counts[tensor] + element] = f32::NAN;
            let batches = [good.batch(), bad.batch(), good.batch()];
            let ranks = on_ranks(2, |exchange| run(&gpu, sgd(), exchange, &batches));
            let (state, records) = all_the_same("a fault", ranks);
            assert_eq!(records[1].reason, Reason::NonFiniteGradient, "rank {rank}, {piece:?}");
            assert_eq!(records.iter().filter(|record| record.applied).count(), 2);
            assert!(state.committed == control.committed, "rank {rank}: the fault left a trace");
        }
    }
}
