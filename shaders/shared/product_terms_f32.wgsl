// What a tiled product multiplies and adds up, here f32: sums go on where the last step left them.
alias Term = vec4<f32>;
alias Sum = mat4x4<f32>;

// Four rows by four columns.
fn add_outer(sum: Sum, a: Term, b: Term) -> Sum {
    return Sum(
        fma(a.xxxx, b, sum[0]),
        fma(a.yyyy, b, sum[1]),
        fma(a.zzzz, b, sum[2]),
        fma(a.wwww, b, sum[3]),
    );
}

fn open_sum(total: mat4x4<f32>) -> Sum { return total; }

fn close_sum(total: mat4x4<f32>, sum: Sum) -> mat4x4<f32> { return sum; }
