//! dpkg's database from any bytes.

use std::collections::BTreeSet;

use super::database::Database;

pub fn packages(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let database = Database::parse(&text);
    let mut absent = 0;
    for name in text.split_whitespace().take(32) {
        let found = database.closure_or(name, |_, _| {
            absent += 1;
            Ok(())
        });
        let Ok(found) = found else {
            panic!("nothing refused {name}");
        };
        let names: BTreeSet<_> = found.iter().map(|package| format!("{package:?}")).collect();
        assert_eq!(names.len(), found.len(), "a package comes twice");
        assert_eq!(found.is_empty(), database.find(name).is_none(), "{name}");
        assert_eq!(
            database.closure(name).is_ok(),
            database
                .closure_or(name, |name, by| {
                    Err(super::PackageError::NotInstalled {
                        name: name.to_owned(),
                        needed_by: by.to_owned(),
                        hint: "",
                    })
                })
                .is_ok()
        );
    }
}
