//! Regular expressions for names of modules: what `target_modules` of PEFT may be.
//!
//! As Python's `re.fullmatch`: literals, `.`, classes, groups, alternatives, repetitions, `^`, `$`,
//! `\b`, and looking ahead. A pattern is followed from a set of places to the set of places where it
//! may end, so that the time it takes is bounded by its length and that of the name.

use std::collections::BTreeSet;

type Places = BTreeSet<usize>;

/// The most that a repetition may be counted to.
const MOST: usize = 1000;

#[derive(Clone, Debug)]
enum Node {
    /// One character in, or with `true` outside of, these ranges.
    Set(Vec<(char, char)>, bool),
    Sequence(Vec<Node>),
    Either(Vec<Node>),
    /// At least and at most so often.
    Repeat(Box<Node>, usize, usize),
    Start,
    End,
    /// Between a word and what is none, or with `true` anywhere else.
    Boundary(bool),
    /// What follows matches, or with `true` does not.
    Ahead(Box<Node>, bool),
}

/// A pattern that a whole name has to match.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Node);

impl Pattern {
    /// `None` for what is no pattern, or has what is not known here.
    pub fn new(text: &str) -> Option<Self> {
        let mut parser = Parser { text: text.chars().collect(), at: 0 };
        let node = parser.alternatives()?;
        (parser.at == parser.text.len()).then_some(Self(node))
    }

    /// Whether it matches all of the name.
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<_> = name.chars().collect();
        self.0.ends(&name, &Places::from([0])).contains(&name.len())
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

impl Node {
    /// Where it may end when it begins at one of these places.
    fn ends(&self, name: &[char], from: &Places) -> Places {
        let keep = |is_kept: &dyn Fn(usize) -> bool| -> Places {
            from.iter().copied().filter(|&at| is_kept(at)).collect()
        };
        match self {
            Self::Set(ranges, negated) => {
                let is_in = |c: char| ranges.iter().any(|&(low, high)| (low..=high).contains(&c));
                let takes = |at: usize| name.get(at).is_some_and(|&c| is_in(c) != *negated);
                keep(&takes).into_iter().map(|at| at + 1).collect()
            }
            Self::Sequence(nodes) => {
                nodes.iter().fold(from.clone(), |places, node| node.ends(name, &places))
            }
            Self::Either(nodes) => nodes.iter().flat_map(|node| node.ends(name, from)).collect(),
            Self::Repeat(node, least, most) => repeated(node, *least, *most, name, from),
            Self::Start => keep(&|at| at == 0),
            Self::End => keep(&|at| at == name.len()),
            Self::Boundary(negated) => keep(&|at| {
                let before = at > 0 && is_word(name[at - 1]);
                let after = name.get(at).is_some_and(|&c| is_word(c));
                (before != after) != *negated
            }),
            Self::Ahead(node, negated) => {
                keep(&|at| node.ends(name, &Places::from([at])).is_empty() == *negated)
            }
        }
    }
}

fn repeated(node: &Node, least: usize, most: usize, name: &[char], from: &Places) -> Places {
    let mut places = from.clone();
    let mut all = if least == 0 { from.clone() } else { Places::new() };
    for count in 1..=most {
        places = node.ends(name, &places);
        let before = all.len();
        if count >= least {
            all.extend(&places);
        }
        // From places that were there before, only places follow that were there before.
        if places.is_empty() || count > least && all.len() == before {
            break;
        }
    }
    all
}

struct Parser {
    text: Vec<char>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = text.chars().enumerate().all(|(i, c)| self.text.get(self.at + i) == Some(&c));
        if found {
            self.at += text.chars().count();
        }
        found
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn alternatives(&mut self) -> Option<Node> {
        let mut all = vec![self.sequence()?];
        while self.take("|") {
            all.push(self.sequence()?);
        }
        Some(Node::Either(all))
    }

    fn sequence(&mut self) -> Option<Node> {
        let mut nodes = Vec::new();
        while self.peek().is_some_and(|c| c != '|' && c != ')') {
            let atom = self.atom()?;
            nodes.push(self.repetition(atom)?);
        }
        Some(Node::Sequence(nodes))
    }

    fn atom(&mut self) -> Option<Node> {
        match self.next()? {
            '.' => Some(Node::Set(vec![('\n', '\n')], true)),
            '^' => Some(Node::Start),
            '$' => Some(Node::End),
            '(' => self.group(),
            '[' => self.class(),
            '\\' => self.escape(),
            '*' | '+' | '?' | '{' => None,
            c => Some(Node::Set(vec![(c, c)], false)),
        }
    }

    fn group(&mut self) -> Option<Node> {
        let ahead = [("?=", false), ("?!", true)].into_iter().find(|&(text, _)| self.take(text));
        if ahead.is_none() && !self.take("?:") && self.peek() == Some('?') {
            return None;
        }
        let inner = self.alternatives()?;
        if !self.take(")") {
            return None;
        }
        Some(match ahead {
            Some((_, negated)) => Node::Ahead(Box::new(inner), negated),
            None => inner,
        })
    }

    fn escape(&mut self) -> Option<Node> {
        let c = self.next()?;
        match c {
            'b' | 'B' => Some(Node::Boundary(c == 'B')),
            _ => escaped(c).map(|(ranges, negated)| Node::Set(ranges, negated)),
        }
    }

    fn class(&mut self) -> Option<Node> {
        let negated = self.take("^");
        let mut ranges = Vec::new();
        while ranges.is_empty() || self.peek() != Some(']') {
            let low = match self.next()? {
                '\\' => match escaped(self.next()?)? {
                    (some, false) if some.len() == 1 && some[0].0 == some[0].1 => some[0].0,
                    (some, false) => {
                        ranges.extend(some);
                        continue;
                    }
                    _ => return None,
                },
                c => c,
            };
            let is_range = self.text.get(self.at + 1) != Some(&']') && self.take("-");
            let high = if is_range { self.next()? } else { low };
            if high < low || is_range && high == '\\' {
                return None;
            }
            ranges.push((low, high));
        }
        self.take("]").then_some(Node::Set(ranges, negated))
    }

    fn repetition(&mut self, atom: Node) -> Option<Node> {
        let (least, most) = match self.peek() {
            Some('*') => (0, usize::MAX),
            Some('+') => (1, usize::MAX),
            Some('?') => (0, 1),
            Some('{') => return self.counted(atom),
            _ => return Some(atom),
        };
        self.at += 1;
        self.repeat(atom, least, most)
    }

    fn counted(&mut self, atom: Node) -> Option<Node> {
        self.at += 1;
        let least = self.number();
        let most = if self.take(",") { self.number().or(Some(usize::MAX)) } else { least };
        let (least, most) = (least.unwrap_or(0), most?);
        let fits = least <= MOST && (most <= MOST || most == usize::MAX) && least <= most;
        if !self.take("}") || !fits {
            return None;
        }
        self.repeat(atom, least, most)
    }

    /// What is as short as it can be ends at the same places in the end.
    fn repeat(&mut self, atom: Node, least: usize, most: usize) -> Option<Node> {
        self.take("?");
        let again = self.peek().is_some_and(|c| matches!(c, '*' | '+' | '?' | '{'));
        (!again).then(|| Node::Repeat(Box::new(atom), least, most))
    }

    fn number(&mut self) -> Option<usize> {
        let mut digits = String::new();
        while let Some(c) = self.peek().filter(char::is_ascii_digit) {
            digits.push(c);
            self.at += 1;
        }
        digits.parse().ok()
    }
}

/// What stands behind a backslash, and whether all else is meant.
fn escaped(c: char) -> Option<(Vec<(char, char)>, bool)> {
    let digit = vec![('0', '9')];
    let word = vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
    let space = vec![(' ', ' '), ('\t', '\r')];
    match c {
        'd' => Some((digit, false)),
        'D' => Some((digit, true)),
        'w' => Some((word, false)),
        'W' => Some((word, true)),
        's' => Some((space, false)),
        'S' => Some((space, true)),
        c if !c.is_alphanumeric() => Some((vec![(c, c)], false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each as Python's `re.fullmatch` has it.
    #[test]
    fn names_match_as_in_python() {
        let q = "model.layers.10.self_attn.q_proj";
        let down = "model.layers.1.mlp.down_proj";
        for (pattern, name, expected) in [
            (".*", q, true),
            ("q_proj", q, false),
            (r".*\.q_proj", q, true),
            (r".*\.(q|v)_proj", q, true),
            (r".*\.(q|v)_proj", down, false),
            (r".*(self_attn|mlp).*(q|down)_proj$", down, true),
            (r"model\.layers\.\d+\.self_attn\.[qkv]_proj", q, true),
            (r"model\.layers\.[0-9]\.self_attn\.[qkv]_proj", q, false),
            (r"model\.layers\.\d{1,3}\..*", q, true),
            (r"model\.layers\.\d{3}\..*", q, false),
            (r"model\.layers\.\d{2,}\..*", q, true),
            (
                r"(?:.*?(?:attn|mlp).*?(?:q_proj|o_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.mlp)",
                q,
                true,
            ),
            (r"^(?!.*mlp).*_proj$", q, true),
            (r"^(?!.*mlp).*_proj$", down, false),
            (r"(?=model).*\bq_proj\b", q, true),
            (r".*\B_proj", q, true),
            (r"(a*)*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false),
            (r"(a*)*b", "aaab", true),
            (r"(a|ab)(c|bcd)", "abcd", true),
            (r"[^.]+", "a.b", false),
            (r"[a-c\-]+", "a-c", true),
            (r"\w+\.\W?\S*", "ab._", true),
            ("", "", true),
            ("", "a", false),
            ("a||b", "", true),
        ] {
            let parsed = Pattern::new(pattern).unwrap_or_else(|| panic!("{pattern} is a pattern"));
            assert_eq!(parsed.matches(name), expected, "{pattern} and {name}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_none() {
        for pattern in [
            "(", ")", "a)", "[a", "*", "a**", "a{2,1}", "a{,}{2}", r"\1", "(?i)a", "(?<x>a)",
            r"a\", "[z-a]",
        ] {
            assert!(Pattern::new(pattern).is_none(), "{pattern}");
        }
    }
}
