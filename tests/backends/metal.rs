//! What can be said about a Metal translation without Metal's compiler.
//!
//! Apple compiles with fast math unless told otherwise, and wgpu does not tell it: the compiler may
//! take it that no NaN and no Inf exists, so a test on float values that only they would decide may be
//! folded away. Tests on bits are not. `tanh` in fast math gives NaN for large arguments.

use naga::{
    AddressSpace, Arena, BinaryOperator, Expression, Function, Handle, Literal, MathFunction,
    Module, ScalarKind, UnaryOperator,
};

use naga::back::PipelineConstants;
use naga::valid::ModuleInfo;

use crate::translate::resolve;

/// Threadgroup memory of every GPU that Metal supports on a Mac.
const THREADGROUP_BYTES: u32 = 32 * 1024;
/// Entries of the table of buffer arguments; the buffer of lengths takes one.
const BUFFERS: usize = 31;

/// What the probes have on purpose: they ask what the device makes of it. Kernel, what is found.
const MEANT: [(&str, &str); 5] = [
    ("probe_arithmetic", "tanh of an argument without bounds"),
    ("probe_bits", "a value compared with itself"),
    ("probe_bits", "a value less itself"),
    ("probe_bits", "a comparison with the largest float"),
    ("probe_bits", "a clamped value compared with itself"),
];

pub fn is_meant(kernel: &str, hazard: &str) -> bool {
    MEANT.contains(&(kernel, hazard))
}

/// Hazards in what naga translates.
pub fn read_module(module: &Module, info: &ModuleInfo) -> Vec<String> {
    let mut found = Vec::new();
    let memory: u32 = module
        .global_variables
        .iter()
        .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
        // wgpu rounds each variable up to 16 bytes.
        .map(|(_, variable)| {
            module.types[variable.ty].inner.size(module.to_ctx()).next_multiple_of(16)
        })
        .sum();
    if memory > THREADGROUP_BYTES {
        found.push(format!("{memory} bytes of threadgroup memory"));
    }
    let bound = module.global_variables.iter().filter(|(_, v)| v.binding.is_some()).count();
    if bound + 1 > BUFFERS {
        found.push(format!("{bound} buffers and that of lengths"));
    }
    for (handle, function) in module.functions.iter() {
        let types = &info[handle];
        let reader = Reader { module, function, types };
        found.extend(reader.hazards().map(str::to_owned));
    }
    for (index, entry) in module.entry_points.iter().enumerate() {
        let types = info.get_entry_point(index);
        let reader = Reader { module, function: &entry.function, types };
        found.extend(reader.hazards().map(str::to_owned));
    }
    found.sort();
    found.dedup();
    found
}

/// Tests of float classes by name: fast math lets each be false.
pub fn read_text(msl: &str) -> Vec<String> {
    let words = ["isnan", "isinf", "isfinite", "isnormal", "isunordered", "isordered"];
    let calls = words.iter().filter(|word| msl.contains(&format!("{word}(")));
    calls.map(|word| format!("a call of {word}")).collect()
}

struct Reader<'a> {
    module: &'a Module,
    function: &'a Function,
    types: &'a naga::valid::FunctionInfo,
}

impl Reader<'_> {
    fn hazards(&self) -> impl Iterator<Item = &'static str> {
        self.function.expressions.iter().filter_map(|(_, expression)| self.hazard(expression))
    }

    fn hazard(&self, expression: &Expression) -> Option<&'static str> {
        use BinaryOperator as Op;
        match *expression {
            Expression::Binary { op, left, right } if self.is_float(left) => match op {
                Op::Equal | Op::NotEqual if self.same(left, right) => {
                    Some("a value compared with itself")
                }
                Op::Equal | Op::NotEqual
                    if self.clamps(left, right) || self.clamps(right, left) =>
                {
                    Some("a clamped value compared with itself")
                }
                Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual
                    if self.same(left, right) =>
                {
                    Some("a value compared with itself")
                }
                Op::Equal
                | Op::NotEqual
                | Op::Less
                | Op::LessEqual
                | Op::Greater
                | Op::GreaterEqual
                    if self.is_largest(left) || self.is_largest(right) =>
                {
                    Some("a comparison with the largest float")
                }
                Op::Subtract if self.same(left, right) => Some("a value less itself"),
                _ => None,
            },
            // !(a < b) holds for NaN and a >= b does not; fast math takes one for the other.
            Expression::Unary { op: UnaryOperator::LogicalNot, expr } => {
                self.is_float_comparison(expr).then_some("the negation of a float comparison")
            }
            Expression::Relational { .. } => self.relational(expression),
            Expression::Math { fun: MathFunction::Tanh, arg, .. } if !self.is_bounded(arg) => {
                Some("tanh of an argument without bounds")
            }
            _ => None,
        }
    }

    fn relational(&self, expression: &Expression) -> Option<&'static str> {
        use naga::RelationalFunction as Fun;
        match expression {
            Expression::Relational { fun: Fun::IsNan | Fun::IsInf, .. } => {
                Some("a test for NaN or Inf")
            }
            _ => None,
        }
    }

    fn expressions(&self) -> &Arena<Expression> {
        &self.function.expressions
    }

    fn is_float(&self, handle: Handle<Expression>) -> bool {
        let ty = self.types[handle].ty.inner_with(&self.module.types);
        ty.scalar_kind() == Some(ScalarKind::Float)
    }

    fn is_float_comparison(&self, handle: Handle<Expression>) -> bool {
        use BinaryOperator as Op;
        matches!(
            self.expressions()[handle],
            Expression::Binary {
                op: Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual,
                left,
                ..
            } if self.is_float(left)
        )
    }

    /// The same value twice: one expression, or two that are written alike. Two loads of one
    /// variable count too, though something may have been stored between.
    fn same(&self, a: Handle<Expression>, b: Handle<Expression>) -> bool {
        use Expression as E;
        if a == b {
            return true;
        }
        match (&self.expressions()[a], &self.expressions()[b]) {
            (E::Load { pointer: a }, E::Load { pointer: b }) => self.same(*a, *b),
            (E::AccessIndex { base: a, index: i }, E::AccessIndex { base: b, index: j }) => {
                i == j && self.same(*a, *b)
            }
            (E::Access { base: a, index: i }, E::Access { base: b, index: j }) => {
                self.same(*a, *b) && self.same(*i, *j)
            }
            (E::Splat { value: a, .. }, E::Splat { value: b, .. }) => self.same(*a, *b),
            (E::GlobalVariable(a), E::GlobalVariable(b)) => a == b,
            (E::LocalVariable(a), E::LocalVariable(b)) => a == b,
            (E::FunctionArgument(a), E::FunctionArgument(b)) => a == b,
            _ => false,
        }
    }

    /// Whether `limited` is `x` between bounds.
    fn clamps(&self, limited: Handle<Expression>, x: Handle<Expression>) -> bool {
        use MathFunction as Fun;
        match self.expressions()[limited] {
            Expression::Math { fun: Fun::Clamp, arg, .. } => self.same(arg, x),
            Expression::Math { fun: Fun::Min | Fun::Max, arg, arg1: Some(other), .. } => {
                [arg, other].into_iter().any(|inner| self.same(inner, x) || self.clamps(inner, x))
            }
            _ => false,
        }
    }

    /// A clamp, or a minimum, as in `min(abs(x), 9.0)`.
    fn is_bounded(&self, handle: Handle<Expression>) -> bool {
        use MathFunction as Fun;
        matches!(self.expressions()[handle], Expression::Math { fun: Fun::Clamp | Fun::Min, .. })
    }

    fn is_largest(&self, handle: Handle<Expression>) -> bool {
        match self.expressions()[handle] {
            Expression::Literal(Literal::F32(value)) => value.abs() == f32::MAX,
            Expression::Splat { value, .. } => self.is_largest(value),
            Expression::Constant(constant) => {
                let value = self.module.constants[constant].init;
                match self.module.global_expressions[value] {
                    Expression::Literal(Literal::F32(value)) => value.abs() == f32::MAX,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

/// The reader finds what it looks for.
#[test]
fn hazards_are_found() {
    let cases = [
        ("x[0] != x[0]", "a value compared with itself"),
        ("v.y == v.y", "a value compared with itself"),
        ("any(v != v)", "a value compared with itself"),
        ("v.x - v.x == 0.0", "a value less itself"),
        ("!(v.x < v.y)", "the negation of a float comparison"),
        ("clamp(v.x, -1.0, 1.0) == v.x", "a clamped value compared with itself"),
        ("v.x > min(max(v.y, -1.0), tanh(v.z))", "tanh of an argument without bounds"),
        ("abs(v.x) > 3.4028234663852886e38", "a comparison with the largest float"),
        ("memory[0] > v.x", "36864 bytes of threadgroup memory"),
        ("v.x < v.y && tanh(clamp(v.z, -9.0, 9.0)) > 0.0", ""),
        ("bitcast<u32>(v.x) == bitcast<u32>(v.x)", ""),
    ];
    for (condition, wanted) in cases {
        let length = if wanted.ends_with("threadgroup memory") { 9216 } else { 1 };
        let source = format!(
            "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
             var<workgroup> memory: array<f32, {length}>;
             @compute @workgroup_size(1) fn main() {{
                 let v = vec4(x[0], x[1], x[2], x[3]);
                 if {condition} {{ x[0] = 1.0; }}
             }}"
        );
        let (module, info) =
            resolve(&source, false, &PipelineConstants::default()).expect("valid WGSL");
        let found = read_module(&module, &info);
        let wanted: &[&str] = if wanted.is_empty() { &[] } else { &[wanted] };
        assert_eq!(found, wanted, "{condition}");
    }
    assert_eq!(read_text("if (metal::isnan(x)) {"), ["a call of isnan"]);
}
