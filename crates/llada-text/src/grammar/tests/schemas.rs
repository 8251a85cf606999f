//! Random JSON schemas, and a check of values against them that shares no code with the grammar.

use regex::Regex;
use serde_json::{Map, Value, json};

/// Pseudo-random numbers (splitmix64).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// Returns a random schema of at most `depth` levels of objects and arrays.
pub(super) fn random(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 7 } else { 12 }) {
        0 => json!({"type": "boolean"}),
        1 => json!({"type": "null"}),
        2 => json!({"enum": [1, "two", "drei é", null, [4], {"five": 5}]}),
        3 => number(random),
        4 => json!({"const": format!("\"{}\"\n", random.below(100))}),
        5 | 6 => string(random),
        7 => array(random, depth),
        8 => json!({"anyOf": [self::random(random, depth - 1), self::random(random, depth - 1)]}),
        _ => object(random, depth),
    }
}

fn number(random: &mut Random) -> Value {
    let kind = *random.pick(&["integer", "number"]);
    let low = i64::try_from(random.below(2000)).unwrap() - 1000;
    let high = low + i64::try_from(random.below(500)).unwrap();
    match random.below(3) {
        0 => json!({"type": kind, "minimum": low}),
        1 => json!({"type": kind, "exclusiveMinimum": low - 1, "maximum": high}),
        _ => json!({"type": kind, "minimum": low, "maximum": high}),
    }
}

fn string(random: &mut Random) -> Value {
    let low = random.below(4);
    match random.below(4) {
        0 => json!({"type": "string"}),
        1 => json!({"type": "string", "minLength": low, "maxLength": low + random.below(5)}),
        2 => json!({"type": "string", "pattern": "^[a-zé]+(-[0-9]{2})?$"}),
        _ => json!({"type": "string", "pattern": "^(日本|\\w{3})$"}),
    }
}

fn array(random: &mut Random, depth: usize) -> Value {
    let low = random.below(3);
    json!({
        "type": "array",
        "items": self::random(random, depth - 1),
        "minItems": low,
        "maxItems": low + random.below(3),
    })
}

fn object(random: &mut Random, depth: usize) -> Value {
    let names = ["a", "b c", "ключ", "\"q\"", "e/f"];
    let mut properties = Map::new();
    let mut required = Vec::new();
    for name in &names[..random.below(names.len() + 1)] {
        properties.insert((*name).into(), self::random(random, depth - 1));
        if random.below(2) == 0 {
            required.push(*name);
        }
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Returns whether `schema`, one of the above, describes `value`.
pub(super) fn describes(schema: &Value, value: &Value) -> bool {
    if let Some(options) = schema["anyOf"].as_array() {
        return options.iter().any(|option| describes(option, value));
    }
    if let Some(options) = schema["enum"].as_array() {
        return options.contains(value);
    }
    match schema["type"].as_str() {
        None => schema["const"] == *value,
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("integer") => is_whole(value) && in_bounds(schema, value),
        Some("number") => value.is_number() && in_bounds(schema, value),
        Some("string") => value
            .as_str()
            .is_some_and(|text| describes_text(schema, text)),
        Some("array") => describes_items(schema, value),
        Some("object") => describes_properties(schema, value),
        Some(other) => panic!("no schema above has type {other}"),
    }
}

/// Returns whether `value` is a whole number, however it is written: -0 is one.
fn is_whole(value: &Value) -> bool {
    value.as_f64().is_some_and(|value| value.fract() == 0.0)
}

fn in_bounds(schema: &Value, value: &Value) -> bool {
    let value = value.as_f64().unwrap();
    let bound = |keyword: &str| schema[keyword].as_f64();
    bound("minimum").is_none_or(|bound| value >= bound)
        && bound("exclusiveMinimum").is_none_or(|bound| value > bound)
        && bound("maximum").is_none_or(|bound| value <= bound)
}

fn in_range(schema: &Value, low: &str, high: &str, len: usize) -> bool {
    let len = len as u64;
    schema[low].as_u64().is_none_or(|low| len >= low)
        && schema[high].as_u64().is_none_or(|high| len <= high)
}

fn describes_text(schema: &Value, text: &str) -> bool {
    let pattern = schema["pattern"].as_str().unwrap_or("");
    in_range(schema, "minLength", "maxLength", text.chars().count())
        && Regex::new(pattern).unwrap().is_match(text)
}

fn describes_items(schema: &Value, value: &Value) -> bool {
    value.as_array().is_some_and(|items| {
        in_range(schema, "minItems", "maxItems", items.len())
            && items.iter().all(|item| describes(&schema["items"], item))
    })
}

fn describes_properties(schema: &Value, value: &Value) -> bool {
    let Some(object) = value.as_object() else {
        return false;
    };
    let required = schema["required"].as_array().unwrap();
    required
        .iter()
        .all(|name| object.contains_key(name.as_str().unwrap()))
        && object.iter().all(|(name, value)| {
            let property = schema["properties"].get(name);
            property.is_some_and(|property| describes(property, value))
        })
}
