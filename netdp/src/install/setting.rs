//! One entry of an object in a file of JSON that somebody else writes, too: all
//! else stays as it is, but for an object in one line, which gets a line for each
//! entry.

use jsonc_parser::{
    ParseOptions,
    cst::{CstInputValue, CstRootNode},
};
use serde_json::{Map, Value};

/// `{"SECTION": {"NAME": {"path": PATH}}}`, as dockerd has its runtimes.
#[derive(Clone, Debug)]
pub struct Setting {
    pub section: &'static str,
    pub name: &'static str,
    pub path: String,
}

/// What a file says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    Nothing,
    This,
    /// It leads elsewhere.
    Other,
    /// The file isn't an object of objects.
    Unreadable,
}

impl Setting {
    pub fn said(&self, text: &str) -> Said {
        if text.trim().is_empty() {
            return Said::Nothing;
        }
        let Ok(file) = serde_json::from_str::<Map<String, Value>>(text) else {
            return Said::Unreadable;
        };
        match file.get(self.section) {
            None => Said::Nothing,
            Some(Value::Object(section)) => match section.get(self.name) {
                None => Said::Nothing,
                Some(entry) if entry.get("path") == Some(&self.path.clone().into()) => Said::This,
                Some(_) => Said::Other,
            },
            Some(_) => Said::Unreadable,
        }
    }

    /// Whether a file that has it names it as the one that is taken where none is.
    pub fn is_default(&self, text: &str) -> bool {
        let file = serde_json::from_str::<Map<String, Value>>(text);
        file.is_ok_and(|file| file.get("default-runtime") == Some(&self.name.into()))
    }

    /// A file that has nothing else. By its spaces it is told from what
    /// [`Self::add`] makes of an empty one.
    pub fn alone(&self) -> String {
        let Self {
            section,
            name,
            path,
        } = self;
        format!(
            "{{\n    \"{section}\": {{\n        \"{name}\": {{\n            \"path\": \
             \"{path}\"\n        }}\n    }}\n}}\n"
        )
    }

    /// The text with it, which says nothing of it yet.
    pub fn add(&self, text: &str) -> String {
        let text = match text.trim() {
            "" => "{\n}\n",
            _ => text,
        };
        let Ok(root) = CstRootNode::parse(text, &ParseOptions::default()) else {
            return text.to_owned();
        };
        let path = CstInputValue::String(self.path.clone());
        let entry = CstInputValue::Object(vec![("path".to_owned(), path)]);
        let section = root.object_value_or_set().object_value_or_set(self.section);
        section.append(self.name, entry);
        root.to_string()
    }

    /// The text without it; none where the file is [its own](Self::alone).
    pub fn remove(&self, text: &str) -> Option<String> {
        if text == self.alone() {
            return None;
        }
        let root = CstRootNode::parse(text, &ParseOptions::default()).ok()?;
        let file = root.object_value()?;
        let section = file.get(self.section)?;
        let entries = section.object_value()?;
        if let Some(entry) = entries.get(self.name) {
            entry.remove();
        }
        if entries.properties().is_empty() {
            section.remove();
        }
        Some(root.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> Setting {
        Setting {
            section: "runtimes",
            name: "netdp",
            path: "/usr/local/bin/netdp-runc".to_owned(),
        }
    }

    /// With it and without it again.
    fn there_and_back(text: &str) -> String {
        assert_eq!(runtime().said(text), Said::Nothing);
        let with = runtime().add(text);
        assert_eq!(runtime().said(&with), Said::This, "{with}");
        runtime().remove(&with).expect("all else")
    }

    #[test]
    fn what_is_added_goes_without_a_trace() {
        for text in [
            "{}",
            "{}\n",
            "{\n  \"debug\": true\n}\n",
            "{\n    \"runtimes\": {\n        \"x\": {\n            \"path\": \"/x\"\n        }\n    },\n\t\"log-level\" : \"warn\"\n}",
        ] {
            assert_eq!(there_and_back(text), text);
        }
    }

    #[test]
    fn what_stands_in_one_line_means_the_same_afterwards() {
        let text = r#"{"debug": true, "runtimes": {"x": {"path": "/x"}}, "hosts": []}"#;
        let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let mut with = value(&runtime().add(text));
        with["runtimes"].as_object_mut().unwrap().remove("netdp");
        assert_eq!(with, value(text));
        assert_eq!(value(&there_and_back(text)), value(text));
    }

    #[test]
    fn of_a_file_of_its_own_nothing_is_left() {
        let alone = runtime().alone();
        assert_eq!(runtime().said(&alone), Said::This, "{alone}");
        assert_eq!(runtime().remove(&alone), None);
        // Of an empty one of others, what says as much.
        for text in ["", "\n"] {
            assert_eq!(there_and_back(text), "{}\n");
        }
    }

    #[test]
    fn what_is_taken_where_no_runtime_is_named_is_told() {
        let is_default = |text| runtime().is_default(text);
        assert!(is_default(r#"{"default-runtime": "netdp"}"#));
        for text in ["{}", "", r#"{"default-runtime": "runc"}"#] {
            assert!(!is_default(text), "{text}");
        }
    }

    #[test]
    fn what_others_wrote_is_told() {
        let said = |text| runtime().said(text);
        assert_eq!(
            said(r#"{"runtimes": {"netdp": {"path": "/x"}}}"#),
            Said::Other
        );
        assert_eq!(said(r#"{"runtimes": {"netdp": 7}}"#), Said::Other);
        // Nor does dockerd read these.
        for text in [
            "[]",
            "{",
            "{'debug': true}",
            "{\"a\": 1 // b\n}",
            r#"{"runtimes": 7}"#,
        ] {
            assert_eq!(said(text), Said::Unreadable, "{text}");
        }
    }
}
