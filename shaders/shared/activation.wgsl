// Activation functions and their derivatives, accurate to f32 rounding and finite for any finite
// x: WGSL allows tanh an absolute error of 1e-5, and some drivers return NaN for large arguments.
// NaN passes through, so that an overflow upstream stays visible in the loss.
const SQRT_HALF = 0.70710678;
const INVERSE_SQRT_TAU = 0.39894228;   // 1 / sqrt(2 pi)
const GELU_SLOPE = 1.5957691;          // 2 sqrt(2 / pi)
const GELU_CUBIC = 0.044715;

// Chosen by bits: compilers may assume that NaN does not exist, and min and max may drop it.
fn keep_nan(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
    return select(y, x, (bitcast<vec4<u32>>(x) & vec4(0x7fffffffu)) > vec4(0x7f800000u));
}

// exp(-a) for a >= 0; 0 where the result would be subnormal.
fn exp_of_minus(a: vec4<f32>) -> vec4<f32> {
    return select(exp(-min(a, vec4(87.0))), vec4(0.0), a > vec4(87.0));
}

fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    let e = exp_of_minus(abs(x));
    return keep_nan(x, select(e, vec4(1.0), x >= vec4(0.0)) / (1.0 + e));
}

// Odd polynomial (Cephes tanhf) where 1 - 2 / (exp(2|x|) + 1) would cancel.
fn tanh_accurate(x: vec4<f32>) -> vec4<f32> {
    let a = min(abs(x), vec4(9.1));
    let z = a * a;
    let tail = (((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z
        + 1.33314422036e-1) * z - 3.33332819422e-1;
    let large = sign(x) * (1.0 - 2.0 / (exp(2.0 * a) + 1.0));
    return keep_nan(x, select(large, x + x * (z * tail), a < vec4(0.625)));
}

// 1 - tanh(x)^2, without cancellation.
fn tanh_derivative(x: vec4<f32>) -> vec4<f32> {
    let e = exp_of_minus(2.0 * abs(x));
    return 4.0 * e / ((1.0 + e) * (1.0 + e));
}

// 1 - erf(a) for a >= 0, small relative to itself (Chebyshev fit, Numerical Recipes erfcc).
fn erfc_nonnegative(a: vec4<f32>) -> vec4<f32> {
    let t = 1.0 / (1.0 + 0.5 * min(a, vec4(10.0)));
    let fit = ((((((((0.17087277 * t - 0.82215223) * t + 1.48851587) * t - 1.13520398) * t
        + 0.27886807) * t - 0.18628806) * t + 0.09678418) * t + 0.37409196) * t
        + 1.00002368) * t - 1.26551223;
    return t * exp_of_minus(min(a, vec4(10.0)) * min(a, vec4(10.0)) - fit);
}

// Odd polynomial (Cephes erff) below 1, erfc above.
fn erf_accurate(x: vec4<f32>) -> vec4<f32> {
    let a = abs(x);
    let z = min(a, vec4(1.0)) * min(a, vec4(1.0));
    let ratio = (((((7.853861353153693e-5 * z - 8.010193625184903e-4) * z
        + 5.188327685732524e-3) * z - 2.685381193529856e-2) * z + 1.128358514861418e-1) * z
        - 3.761262582423300e-1) * z + 1.128379165726710;
    let large = sign(x) * (1.0 - erfc_nonnegative(a));
    return keep_nan(x, select(large, x * ratio, a < vec4(1.0)));
}

// Distribution function of the standard normal; its lower tail keeps its digits.
fn normal_cdf(x: vec4<f32>) -> vec4<f32> {
    let z = SQRT_HALF * x;
    return select(0.5 * (1.0 + erf_accurate(z)), 0.5 * erfc_nonnegative(-z), z < vec4(-1.0));
}

fn relu(x: vec4<f32>) -> vec4<f32> { return keep_nan(x, max(x, vec4(0.0))); }
fn relu_derivative(x: vec4<f32>) -> vec4<f32> {
    return select(vec4(0.0), vec4(1.0), x > vec4(0.0));
}

// x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3), written as x sigmoid(2 u).
// |x| is cut where the sigmoid has saturated, so that the cube cannot overflow.
fn gelu_tanh(x: vec4<f32>) -> vec4<f32> {
    let c = clamp(x, vec4(-10.0), vec4(10.0));
    return keep_nan(x, x * sigmoid(GELU_SLOPE * (c + GELU_CUBIC * c * c * c)));
}
fn gelu_tanh_derivative(x: vec4<f32>) -> vec4<f32> {
    let c = clamp(x, vec4(-10.0), vec4(10.0));
    let u = GELU_SLOPE * (c + GELU_CUBIC * c * c * c);
    let slope = GELU_SLOPE * (1.0 + 3.0 * GELU_CUBIC * c * c);
    return sigmoid(u) + c * slope * (0.25 * tanh_derivative(0.5 * u));
}

fn gelu_erf(x: vec4<f32>) -> vec4<f32> { return keep_nan(x, x * normal_cdf(x)); }
fn gelu_erf_derivative(x: vec4<f32>) -> vec4<f32> {
    let c = clamp(x, vec4(-14.0), vec4(14.0));
    return normal_cdf(x) + c * INVERSE_SQRT_TAU * exp_of_minus(0.5 * c * c);
}

fn silu(x: vec4<f32>) -> vec4<f32> { return keep_nan(x, x * sigmoid(x)); }
// The slope of the sigmoid is a quarter of tanh'(x / 2).
fn silu_derivative(x: vec4<f32>) -> vec4<f32> {
    return sigmoid(x) + x * (0.25 * tanh_derivative(0.5 * x));
}

// kind numbers are those of the Rust enum Activation.
fn activate(kind: u32, x: vec4<f32>) -> vec4<f32> {
    switch kind {
        case 1u: { return relu(x); }
        case 2u: { return gelu_tanh(x); }
        case 3u: { return gelu_erf(x); }
        case 4u: { return silu(x); }
        case 5u: { return tanh_accurate(x); }
        default: { return x; }
    }
}

fn activate_derivative(kind: u32, x: vec4<f32>) -> vec4<f32> {
    switch kind {
        case 1u: { return relu_derivative(x); }
        case 2u: { return gelu_tanh_derivative(x); }
        case 3u: { return gelu_erf_derivative(x); }
        case 4u: { return silu_derivative(x); }
        case 5u: { return tanh_derivative(x); }
        default: { return vec4(1.0); }
    }
}
