// The end of a product that is the gradient of what an activation gave, with what is in C where it
// adds to that: times the derivative, at the argument that the forward pass kept, it is that of the
// argument. Where a gate was activated, and multiplied with the other half of the row, both halves
// have their gradients. Constants, so that what they switch off costs nothing.
override activation: u32 = 0u;
override gated: u32 = 0u;

fn finish(at: u32, value: vec4<f32>) {
    var total = value;
    if params.accumulate != 0u { total += unpack(c[at]); }
    if activation != 0u {
        let argument = unpack(pre_activation[at]);
        if gated != 0u {
            let up = at + params.c_row_stride / 2u;
            c[up] = pack(total * activate(activation, argument));
            total *= unpack(pre_activation[up]);
        }
        total *= activate_derivative(activation, argument);
    }
    c[at] = pack(total);
}
