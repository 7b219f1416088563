//! What an exchange does by itself, and with ranks that do not keep to it.

use std::rc::Rc;

use evenkeel::train::ranks::{Exchange, even_parts};

use crate::on_ranks;
use crate::support::values;

#[test]
fn sums_are_those_of_a_loop_over_ranks() {
    for (ranks, count) in [(1, 5), (2, 1), (3, 2), (3, 1000), (4, 1023), (5, 0)] {
        let of = |rank: usize| -> Vec<f32> {
            let scale = 10f32.powi(rank as i32 * 3 - 4);
            values(rank as u64, count).into_iter().map(|x| x * scale).collect()
        };
        let mut expected = of(0);
        for rank in 1..ranks {
            expected.iter_mut().zip(of(rank)).for_each(|(sum, x)| *sum += x);
        }
        let found = on_ranks(ranks, |exchange| {
            let mut values = of(exchange.rank());
            exchange.fold(&mut values).expect("a sum");
            values
        });
        assert!(found.iter().all(|sums| *sums == expected), "{ranks} ranks, {count} values");
    }
}

/// What an optimizer needs that has its own part of the moments.
#[test]
fn a_part_is_added_up_where_it_belongs() {
    let found = on_ranks(3, |exchange| {
        let mut values = [1.0f32, 2.0, 3.0, 4.0].map(|x| x * (exchange.rank() + 1) as f32);
        exchange.fold_parts(&mut values, &[0..3, 3..3, 3..4]).expect("sums");
        values
    });
    assert_eq!(found, [[6.0, 12.0, 18.0, 4.0], [2.0, 4.0, 6.0, 8.0], [3.0, 6.0, 9.0, 24.0]]);
}

#[test]
fn bytes_of_any_length_are_gathered_and_broadcast() {
    let found = on_ranks(4, |exchange| {
        let exchange = Rc::new(exchange);
        let own = vec![exchange.rank() as u8; 7 * exchange.rank()];
        let all = exchange.gather(&own).expect("all");
        exchange.barrier().expect("all are here");
        (all, exchange.broadcast(&[5, 6, 7][exchange.rank().min(2)..]).expect("those of rank 0"))
    });
    for (all, first) in found {
        let lengths: Vec<_> = all.iter().map(Vec::len).collect();
        assert_eq!(lengths, [0, 7, 14, 21]);
        assert!(all.iter().zip(0u8..).all(|(bytes, rank)| bytes.iter().all(|&b| b == rank)));
        assert_eq!(first, [5, 6, 7]);
    }
    assert_eq!(even_parts(5, 2), [0..3, 3..5]);
}

#[test]
fn ranks_that_do_different_things_are_told() {
    let errors = on_ranks(2, |exchange| {
        let mut values = vec![0f32; 4 + 2 * exchange.rank()];
        exchange.fold(&mut values).expect_err("other lengths").to_string()
    });
    assert!(
        errors.iter().any(|error| error.contains("do not call the same methods")),
        "{errors:?}"
    );
}
