//! Damaged copies of seed files, each a function of its number.

/// Texts that break assumptions about numbers, strings and structure.
const DICTIONARY: [&[u8]; 20] = [
    b"0",
    b"-1",
    b"1e400",
    b"4294967296",
    b"18446744073709551615",
    b"0.5",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\"",
    b"{",
    b"]",
    b",",
    b"\\u0000",
    b"\xff",
    "\u{2581}é".as_bytes(),
    b"\n",
    b"nan",
];
const MAX_MUTATIONS: usize = 4;

/// Makes input number `counter`. The first ones are the seeds themselves.
pub(crate) fn input(seeds: &[Vec<u8>], counter: u64) -> Vec<u8> {
    if let Some(seed) = usize::try_from(counter).ok().and_then(|i| seeds.get(i)) {
        return seed.clone();
    }
    let mut random = Random { counter, draws: 0 };
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(MAX_MUTATIONS) {
        mutate(&mut bytes, &mut random);
    }
    bytes
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    let start = random.below(bytes.len() + 1);
    let end = start + random.below((bytes.len() - start).min(64) + 1);
    match random.below(7) {
        0 => drop(bytes.drain(start..end)),
        1 => bytes.truncate(start),
        2 => bytes.extend_from_within(start..end),
        3 if start < end => bytes[start] ^= 1 << random.below(8),
        4 => replace_number(bytes, start, random),
        5 => drop(bytes.splice(
            start..end,
            DICTIONARY[random.below(DICTIONARY.len())].to_vec(),
        )),
        _ => {
            let copied = bytes[start..end].to_vec();
            let target = random.below(bytes.len() + 1);
            bytes.splice(target..target, copied);
        }
    }
}

/// Replaces the first number from `start` on, which keeps the file well-formed.
fn replace_number(bytes: &mut Vec<u8>, start: usize, random: &mut Random) {
    let Some(first) = bytes[start..].iter().position(u8::is_ascii_digit) else {
        return;
    };
    let first = start + first;
    let len = bytes[first..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let number = DICTIONARY[random.below(8)].to_vec();
    bytes.splice(first..first + len, number);
}

/// Random numbers that depend on nothing but (counter, draws so far): splitmix64.
struct Random {
    counter: u64,
    draws: u64,
}

impl Random {
    /// Returns a number below `limit`, or 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        self.draws += 1;
        let mixed = mix(mix(self.counter).wrapping_add(self.draws));
        (mixed % (limit as u64).max(1)) as usize
    }
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
