//! Faults planted in the answers of a perfect adapter.

use super::*;

fn perfect() -> Answers {
    let expected = reference::probe::probe_conversion(&pairs(), &words());
    let flat: Vec<_> = pairs().into_iter().flatten().collect();
    let own = [Precision::F16, Precision::Bf16].map(|precision| {
        let wide = precision.decode(bytemuck::cast_slice(&halves()));
        (precision, precision.encode(&flat), wide)
    });
    Answers {
        packed: expected.packed,
        unpacked: expected.unpacked,
        numbers: expected.numbers,
        own: own.into(),
    }
}

fn outcomes(answers: &Answers) -> [Outcome; 3] {
    let checks = Conversions::judge(answers).checks(&AdmittedConversions::default());
    [checks[0].outcome, checks[1].outcome, checks[2].outcome]
}

#[test]
fn a_perfect_adapter_passes() {
    assert_eq!(outcomes(&perfect()), [Outcome::Pass; 3]);
}

#[test]
fn a_wrong_bit_of_the_own_conversion_fails() {
    for precision in 0..2 {
        let mut answers = perfect();
        answers.own[precision].1[4] ^= 1;
        assert_eq!(outcomes(&answers)[0], Outcome::Fail);
        let mut answers = perfect();
        answers.own[precision].2[1] = 0.0;
        assert_eq!(outcomes(&answers)[0], Outcome::Fail, "a subnormal flushed");
    }
}

#[test]
fn faults_of_the_builtins_are_named() {
    let find = |low: f32| pairs().iter().position(|pair| pair[0] == low).expect("a pair");
    let faults: [(f32, u32, &str); 3] = [
        (1.0 + 2f32.powi(-11), 1, "pack not to nearest even"),
        (2f32.powi(-24), 1, "pack loses subnormals"),
        (70_000.0, 0x200, "pack of 70000 or Inf is not Inf"),
    ];
    for (low, flipped, found) in faults {
        let mut answers = perfect();
        answers.packed[find(low)] ^= flipped;
        let check = Conversions::judge(&answers).check_builtin(&AdmittedConversions::default());
        assert_eq!((check.outcome, &*check.found), (Outcome::Degraded, found));
    }
    let mut answers = perfect();
    for (word, values) in words().into_iter().zip(&mut answers.unpacked) {
        for (half, value) in halves_of(word).into_iter().zip(values) {
            *value = if is_subnormal(half) { 0.0 } else { *value };
        }
    }
    let check = Conversions::judge(&answers).check_builtin(&AdmittedConversions::default());
    assert_eq!(check.found, "unpack loses subnormals");
}

#[test]
fn integers_rounded_down_are_seen() {
    let mut answers = perfect();
    let place = words().iter().position(|&word| word == 16_777_219).expect("a word");
    answers.numbers[place] = 16_777_218.0;
    assert_eq!(outcomes(&answers), [Outcome::Pass, Outcome::Pass, Outcome::Degraded]);
}
