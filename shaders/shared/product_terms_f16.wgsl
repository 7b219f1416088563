// What a tiled product multiplies and adds up, here f16: for values that are stored in f16 anyway,
// on devices that multiply it faster. The sums of a step, 16 products, are f16, which loses about
// as much as storing the operands did; sums of those are f32.
alias Term = vec4<f16>;
struct Sum { r0: Term, r1: Term, r2: Term, r3: Term }

// Four rows by four columns.
fn add_outer(sum: Sum, a: Term, b: Term) -> Sum {
    return Sum(
        fma(a.xxxx, b, sum.r0),
        fma(a.yyyy, b, sum.r1),
        fma(a.zzzz, b, sum.r2),
        fma(a.wwww, b, sum.r3),
    );
}

fn open_sum(total: mat4x4<f32>) -> Sum { return Sum(); }

fn close_sum(total: mat4x4<f32>, sum: Sum) -> mat4x4<f32> {
    return mat4x4(
        total[0] + vec4<f32>(sum.r0),
        total[1] + vec4<f32>(sum.r1),
        total[2] + vec4<f32>(sum.r2),
        total[3] + vec4<f32>(sum.r3),
    );
}
