//! Tokens into a tree. Nesting is bounded, so that no text overflows the stack; long chains are loops.

use std::sync::Arc;

use super::{
    ast::{Ast, Entry, Field, Id, Literal, Node, TooLarge},
    is_reserved,
    lexer::{Kind, Token, tokens},
    literal, macros, operator,
};
use crate::source::{Issue, Issues, Offset, Source};

/// The deepest nesting of brackets, as in the reference.
const DEEPEST: usize = 250;
/// The longest text in code points, as in the reference.
const LONGEST: usize = 100_000;
/// What may begin an expression, as the reference lists it.
const BEGINNINGS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, \
STRING, BYTES, IDENTIFIER}";

/// Which parts of the language are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// `a.?b`, `a[?b]`, `[?a]`, `optMap` and `optFlatMap`.
    pub(crate) optional: bool,
    /// Macros over two variables.
    pub(crate) two_variables: bool,
    /// `list.sortBy`.
    pub(crate) sort_by: bool,
    /// `cel.bind`.
    pub(crate) bind: bool,
}

/// The parser has given up; the issues say why.
pub(super) struct Stop;

/// The tree of a text.
pub(crate) fn parse(source: &Source, dialect: Dialect) -> Result<Ast, Issues> {
    let size = source.text().chars().count();
    if size > LONGEST {
        let message = format!("expression code point size exceeds limit: size: {size}, limit {LONGEST}");
        return Err(Issues(vec![source.issue(None, message)]));
    }
    let tokens = tokens(source).map_err(Issues)?;
    let mut parser = Parser {
        source,
        dialect,
        tokens: &tokens,
        position: 0,
        depth: 0,
        ast: Ast::default(),
        issues: Vec::new(),
    };
    if let Ok(root) = parser.start() {
        parser.ast.root = root;
    }
    if parser.issues.is_empty() { Ok(parser.ast) } else { Err(Issues(parser.issues)) }
}

pub(super) struct Parser<'a> {
    source: &'a Source,
    pub(super) dialect: Dialect,
    tokens: &'a [Token<'a>],
    position: usize,
    depth: usize,
    pub(super) ast: Ast,
    issues: Vec<Issue>,
}

type Parsed = Result<Id, Stop>;

impl<'a> Parser<'a> {
    fn start(&mut self) -> Parsed {
        let root = self.expression()?;
        if self.peek().kind == Kind::End { Ok(root) } else { Err(self.unexpected("<EOF>")) }
    }

    fn peek(&self) -> Token<'a> {
        self.tokens[self.position]
    }

    fn ahead(&self, by: usize) -> Token<'a> {
        self.tokens[(self.position + by).min(self.tokens.len() - 1)]
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.position = (self.position + 1).min(self.tokens.len() - 1);
        token
    }

    fn is(&self, symbol: &str) -> bool {
        is_symbol(self.peek(), symbol)
    }

    /// Passes a symbol, if it is there, and says where it stood.
    fn accept(&mut self, symbol: &str) -> Option<u32> {
        self.is(symbol).then(|| self.next().at)
    }

    fn expect(&mut self, symbol: &str, expected: &str) -> Result<u32, Stop> {
        match self.accept(symbol) {
            Some(at) => Ok(at),
            None => Err(self.unexpected(expected)),
        }
    }

    /// Reports the token that is there. One too many is called extraneous where the next would do.
    fn unexpected(&mut self, expected: &str) -> Stop {
        let token = self.peek();
        let follows = self.ahead(1);
        let single = expected.trim_matches('\'');
        let next_fits = match expected {
            "<EOF>" => token.kind != Kind::End && follows.kind == Kind::End && token.kind == Kind::Ident,
            BEGINNINGS => token.kind != Kind::End && begins(follows),
            _ => token.kind != Kind::End && is_symbol(follows, single),
        };
        let kind = if next_fits { "extraneous" } else { "mismatched" };
        self.syntax(Some(token.at), format!("{kind} input '{}' expecting {expected}", token.text))
    }

    fn syntax(&mut self, at: Offset, message: String) -> Stop {
        self.report(at, format!("Syntax error: {message}"));
        Stop
    }

    pub(super) fn report(&mut self, at: Offset, message: impl Into<String>) {
        self.issues.push(self.source.issue(at, message));
    }

    fn too_deep(&mut self) -> Stop {
        self.report(None, format!("expression recursion limit exceeded: {DEEPEST}"));
        Stop
    }

    pub(super) fn add(&mut self, node: Node, at: Offset) -> Parsed {
        self.ast.add(node, at).map_err(|TooLarge| self.too_deep())
    }

    pub(super) fn copy(&mut self, id: Id) -> Parsed {
        self.ast.copy(id).map_err(|TooLarge| self.too_deep())
    }

    /// Stands for what was reported.
    fn placeholder(&mut self, at: Offset) -> Parsed {
        self.add(Node::Literal(Literal::Null), at)
    }

    fn literal(&mut self, literal: Literal, at: u32) -> Parsed {
        self.add(Node::Literal(literal), Some(at))
    }

    fn call(&mut self, function: &str, arguments: Vec<Id>, at: u32) -> Parsed {
        self.add(Node::Call { function: function.into(), target: None, arguments }, Some(at))
    }

    fn expression(&mut self) -> Parsed {
        if self.depth == DEEPEST {
            return Err(self.too_deep());
        }
        self.depth += 1;
        let condition = self.or()?;
        let found = match self.accept("?") {
            None => condition,
            Some(at) => {
                let truthy = self.or()?;
                self.expect(":", "':'")?;
                let falsy = self.expression()?;
                self.call(operator::CONDITIONAL, vec![condition, truthy, falsy], at)?
            }
        };
        self.depth -= 1;
        Ok(found)
    }

    fn or(&mut self) -> Parsed {
        self.logic("||", operator::OR, Self::and)
    }

    fn and(&mut self) -> Parsed {
        self.logic("&&", operator::AND, Self::relation)
    }

    /// Terms of one logical operator as a balanced tree: a thousand of them are ten deep.
    fn logic(&mut self, symbol: &str, function: &str, term: fn(&mut Self) -> Parsed) -> Parsed {
        let mut terms = vec![term(self)?];
        let mut places = Vec::new();
        while let Some(at) = self.accept(symbol) {
            places.push(at);
            terms.push(term(self)?);
        }
        self.balance(function, &terms, &places)
    }

    fn balance(&mut self, function: &str, terms: &[Id], places: &[u32]) -> Parsed {
        if places.is_empty() {
            return Ok(terms[0]);
        }
        let middle = places.len() / 2;
        let left = self.balance(function, &terms[..=middle], &places[..middle])?;
        let right = self.balance(function, &terms[middle + 1..], &places[middle + 1..])?;
        self.call(function, vec![left, right], places[middle])
    }

    fn relation(&mut self) -> Parsed {
        const OPERATORS: [(&str, &str); 7] = [
            ("<", "_<_"),
            ("<=", "_<=_"),
            (">=", "_>=_"),
            (">", "_>_"),
            ("==", operator::EQUALS),
            ("!=", operator::NOT_EQUALS),
            ("in", operator::IN),
        ];
        self.chain(&OPERATORS, Self::sum)
    }

    fn sum(&mut self) -> Parsed {
        self.chain(&[("+", operator::ADD), ("-", "_-_")], Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.chain(&[("*", "_*_"), ("/", "_/_"), ("%", "_%_")], Self::unary)
    }

    fn chain(&mut self, operators: &[(&str, &str)], term: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = term(self)?;
        loop {
            let token = self.peek();
            let Some((_, function)) = operators.iter().find(|(symbol, _)| is_symbol(token, symbol)) else {
                return Ok(left);
            };
            self.next();
            let right = term(self)?;
            left = self.call(function, vec![left, right], token.at)?;
        }
    }

    fn unary(&mut self) -> Parsed {
        let token = self.peek();
        for (symbol, function) in [("!", operator::NOT), ("-", operator::NEGATE)] {
            if !is_symbol(token, symbol) {
                continue;
            }
            let number = matches!(self.ahead(1).kind, Kind::Int | Kind::Double);
            if symbol == "-" && number {
                return self.member();
            }
            let mut count = 0;
            while self.accept(symbol).is_some() {
                count += 1;
            }
            let operand = self.member()?;
            return if count % 2 == 0 { Ok(operand) } else { self.call(function, vec![operand], token.at) };
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut found = self.primary()?;
        loop {
            if let Some(at) = self.accept(".") {
                let optional = self.optional_mark(at)?;
                let name = self.next();
                if is_constant(name.text) || is_symbol(name, "in") {
                    let message = format!("mismatched input '{}' expecting IDENTIFIER", name.text);
                    return Err(self.syntax(Some(name.at), message));
                }
                if !matches!(name.kind, Kind::Ident | Kind::Quoted) {
                    let message = format!("no viable alternative at input '.{}'", name.text);
                    return Err(self.syntax(Some(name.at), message));
                }
                let open = if optional || name.kind == Kind::Quoted { None } else { self.accept("(") };
                found = match open {
                    Some(open) => {
                        let arguments = self.arguments()?;
                        macros::call(self, name.text, Some(found), arguments, open)?
                    }
                    None if optional => {
                        let field = Literal::String(name.text.trim_matches('`').into());
                        let field = self.literal(field, name.at)?;
                        self.call(operator::OPTIONAL_SELECT, vec![found, field], at)?
                    }
                    None => {
                        let field = name.text.trim_matches('`').into();
                        self.add(Node::Select { operand: found, field, test: false }, Some(at))?
                    }
                };
            } else if let Some(at) = self.accept("[") {
                let optional = self.optional_mark(at)?;
                let index = self.expression()?;
                self.expect("]", "']'")?;
                let function = if optional { operator::OPTIONAL_INDEX } else { operator::INDEX };
                found = self.call(function, vec![found, index], at)?;
            } else {
                return Ok(found);
            }
        }
    }

    /// The question mark of optional syntax.
    fn optional_mark(&mut self, at: u32) -> Result<bool, Stop> {
        if self.accept("?").is_none() {
            return Ok(false);
        }
        if !self.dialect.optional {
            self.report(Some(at), "unsupported syntax '?'");
        }
        Ok(true)
    }

    /// What stands between parentheses, the first of which is passed.
    fn arguments(&mut self) -> Result<Vec<Id>, Stop> {
        let mut found = Vec::new();
        if self.accept(")").is_some() {
            return Ok(found);
        }
        loop {
            found.push(self.expression()?);
            if self.accept(",").is_none() {
                self.expect(")", "')'")?;
                return Ok(found);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let token = self.peek();
        match token.kind {
            Kind::Int | Kind::Uint | Kind::Double => self.number(false),
            Kind::String | Kind::Bytes => self.quoted(),
            Kind::Ident => self.named(),
            Kind::Symbol => match token.text {
                "-" if matches!(self.ahead(1).kind, Kind::Int | Kind::Double) => {
                    self.next();
                    self.number(true)
                }
                "." if self.ahead(1).kind == Kind::Ident => self.named(),
                "(" => {
                    self.next();
                    let inner = self.expression()?;
                    self.expect(")", "')'")?;
                    Ok(inner)
                }
                "[" => self.list(),
                "{" => self.map(),
                _ => Err(self.unexpected(BEGINNINGS)),
            },
            Kind::Quoted | Kind::End => Err(self.unexpected(BEGINNINGS)),
        }
    }

    /// A number, whose sign is passed.
    fn number(&mut self, negative: bool) -> Parsed {
        let token = self.next();
        let at = if negative { self.tokens[self.position - 2].at } else { token.at };
        let (digits, radix) = match token.text.strip_prefix("0x") {
            Some(digits) if token.kind != Kind::Double => (digits, 16),
            _ => (token.text, 10),
        };
        let found = match token.kind {
            Kind::Double => {
                let sign = if negative { -1.0 } else { 1.0 };
                let number = token.text.parse::<f64>().ok().filter(|number| number.is_finite());
                number.map(|number| Literal::Double(sign * number)).ok_or("double")
            }
            Kind::Uint => {
                u64::from_str_radix(&digits[..digits.len() - 1], radix).map(Literal::Uint).map_err(|_| "uint")
            }
            _ => {
                let signed = if negative { format!("-{digits}") } else { digits.to_owned() };
                i64::from_str_radix(&signed, radix).map(Literal::Int).map_err(|_| "int")
            }
        };
        match found {
            Ok(literal) => self.literal(literal, at),
            Err(kind) => {
                self.report(Some(at), format!("invalid {kind} literal"));
                self.placeholder(Some(at))
            }
        }
    }

    fn quoted(&mut self) -> Parsed {
        let token = self.next();
        let found = if token.kind == Kind::String {
            literal::string(token.text).map(|text| Literal::String(text.into()))
        } else {
            literal::bytes(token.text).map(|bytes| Literal::Bytes(bytes.into()))
        };
        match found {
            Ok(literal) => self.literal(literal, token.at),
            Err(message) => {
                self.report(Some(token.at), message);
                self.placeholder(Some(token.at))
            }
        }
    }

    /// A constant, a variable, a call or an object.
    fn named(&mut self) -> Parsed {
        let begin = self.peek();
        let dot = if self.accept(".").is_some() { "." } else { "" };
        if dot.is_empty() {
            let constant = match begin.text {
                "true" => Some(Literal::Bool(true)),
                "false" => Some(Literal::Bool(false)),
                "null" => Some(Literal::Null),
                _ => None,
            };
            if let Some(constant) = constant {
                self.next();
                return self.literal(constant, begin.at);
            }
        }
        if let Some(parts) = self.object_name() {
            return self.object(dot, parts);
        }
        let name = self.next();
        if is_constant(name.text) {
            let message = format!("mismatched input '{}' expecting IDENTIFIER", name.text);
            return Err(self.syntax(Some(name.at), message));
        }
        let reserved = is_reserved(name.text);
        if reserved {
            self.report(Some(begin.at), format!("reserved identifier: {}", name.text));
        }
        let full = format!("{dot}{}", name.text);
        match self.accept("(") {
            None => self.add(Node::Ident(full.into()), Some(name.at)),
            Some(open) => {
                let arguments = self.arguments()?;
                if reserved {
                    self.placeholder(Some(open))
                } else {
                    macros::call(self, &full, None, arguments, open)
                }
            }
        }
    }

    /// How many names, parted by dots, stand before a brace that makes them an object's.
    fn object_name(&self) -> Option<usize> {
        let mut parts = 1;
        while is_symbol(self.ahead(2 * parts - 1), ".") && self.ahead(2 * parts).kind == Kind::Ident {
            parts += 1;
        }
        is_symbol(self.ahead(2 * parts - 1), "{").then_some(parts)
    }

    fn object(&mut self, dot: &str, parts: usize) -> Parsed {
        let mut name = dot.to_owned();
        for part in 0..parts {
            if part > 0 {
                self.next();
                name.push('.');
            }
            name.push_str(self.next().text);
        }
        let at = self.expect("{", "'{'")?;
        let mut fields = Vec::new();
        while !self.is("}") {
            let optional = self.optional_mark(self.peek().at)?;
            let field = self.peek();
            if !matches!(field.kind, Kind::Ident | Kind::Quoted) || is_constant(field.text) {
                if fields.is_empty() && self.is(",") && is_symbol(self.ahead(1), "}") {
                    self.next();
                    break;
                }
                return Err(self.unexpected("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}"));
            }
            self.next();
            let colon = self.expect(":", "':'")?;
            let value = self.expression()?;
            let name = field.text.trim_matches('`').into();
            fields.push(Field { name, value, optional, at: Some(colon) });
            if self.accept(",").is_none() {
                break;
            }
        }
        self.expect("}", "{'}', ','}")?;
        self.add(Node::Struct { name: name.into(), fields }, Some(at))
    }

    fn list(&mut self) -> Parsed {
        let at = self.next().at;
        let mut elements = Vec::new();
        while !self.is("]") {
            if elements.is_empty() && self.is(",") && is_symbol(self.ahead(1), "]") {
                self.next();
                break;
            }
            let optional = self.optional_mark(self.peek().at)?;
            elements.push((self.expression()?, optional));
            if self.accept(",").is_none() {
                break;
            }
        }
        self.expect("]", "{']', ','}")?;
        self.add(Node::List(elements), Some(at))
    }

    fn map(&mut self) -> Parsed {
        let at = self.next().at;
        let mut entries = Vec::new();
        while !self.is("}") {
            if entries.is_empty() && self.is(",") && is_symbol(self.ahead(1), "}") {
                self.next();
                break;
            }
            let optional = self.optional_mark(self.peek().at)?;
            let key = self.expression()?;
            self.expect(":", "':'")?;
            let value = self.expression()?;
            entries.push(Entry { key, value, optional });
            if self.accept(",").is_none() {
                break;
            }
        }
        self.expect("}", "{'}', ','}")?;
        self.add(Node::Map(entries), Some(at))
    }

    pub(super) fn ident_of(&self, id: Id) -> Option<Arc<str>> {
        match self.ast.node(id) {
            Node::Ident(name) => Some(name.clone()),
            _ => None,
        }
    }
}

fn is_symbol(token: Token<'_>, symbol: &str) -> bool {
    token.kind == Kind::Symbol && token.text == symbol
}

fn is_constant(word: &str) -> bool {
    matches!(word, "true" | "false" | "null")
}

fn begins(token: Token<'_>) -> bool {
    match token.kind {
        Kind::Symbol => matches!(token.text, "[" | "{" | "(" | "." | "-" | "!"),
        Kind::End | Kind::Quoted => false,
        _ => true,
    }
}
