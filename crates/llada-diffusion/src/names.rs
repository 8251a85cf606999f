//! Words for the closed sets of choices, as they appear in recipes and checkpoints.

/// Implements `Display` and `FromStr` for an enum whose variants have fixed names.
macro_rules! names {
    ($type:ty, $what:literal, { $($variant:ident => $name:literal),+ $(,)? }) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(match self { $(Self::$variant => $name),+ })
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::Error;

            fn from_str(name: &str) -> Result<Self, $crate::Error> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    _ => Err($crate::Error::UnknownName {
                        what: $what,
                        found: name.to_owned(),
                        expected: [$(concat!("`", $name, "`")),+].join(", "),
                    }),
                }
            }
        }
    };
}

pub(crate) use names;
