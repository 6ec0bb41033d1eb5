//! `{{.Name}}` templates in `cmd`, `env` and `cwd`. Parsed once, rendered per worker.

use std::fmt;

/// What a template may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variable {
    Port,
    Socket,
    SessionId,
    Principal,
    Worker,
    Dir,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Text(String),
    Variable(Variable),
}

/// A parsed template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template(Vec<Segment>);

/// The values of one worker. A value is `None` only where the kind cannot name it.
#[derive(Debug, Clone, Default)]
pub struct Values {
    pub port: Option<u16>,
    pub socket: Option<String>,
    pub session_id: Option<String>,
    pub principal: Option<String>,
    pub worker: String,
    pub dir: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    Unclosed { at: usize },
    Unknown { at: usize, name: String },
}

impl Variable {
    pub const ALL: [Variable; 6] = [
        Self::Port,
        Self::Socket,
        Self::SessionId,
        Self::Principal,
        Self::Worker,
        Self::Dir,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Port => "Port",
            Self::Socket => "Socket",
            Self::SessionId => "SessionID",
            Self::Principal => "Principal",
            Self::Worker => "Worker",
            Self::Dir => "Dir",
        }
    }
}

impl Template {
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut segments = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find("{{") {
            let at = text.len() - rest.len() + open;
            if open > 0 {
                segments.push(Segment::Text(rest[..open].to_owned()));
            }
            let inside = &rest[open + 2..];
            let close = inside.find("}}").ok_or(TemplateError::Unclosed { at })?;
            let name = inside[..close].trim();
            let variable = Variable::ALL
                .into_iter()
                .find(|v| name.strip_prefix('.') == Some(v.name()))
                .ok_or_else(|| TemplateError::Unknown {
                    at,
                    name: name.to_owned(),
                })?;
            segments.push(Segment::Variable(variable));
            rest = &inside[close + 2..];
        }
        if !rest.is_empty() {
            segments.push(Segment::Text(rest.to_owned()));
        }
        Ok(Self(segments))
    }

    /// The text itself, where nothing is to be replaced.
    pub fn text(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Segment::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it becomes an absolute path, whatever the values are.
    pub fn is_absolute(&self) -> bool {
        match self.0.first() {
            Some(Segment::Text(text)) => text.starts_with('/'),
            Some(Segment::Variable(variable)) => matches!(variable, Variable::Dir | Variable::Socket),
            None => false,
        }
    }

    /// Whether it is to begin with what a client has chosen.
    pub fn begins_with_id(&self) -> bool {
        matches!(self.0.first(), Some(Segment::Variable(Variable::SessionId)))
    }

    pub fn names(&self, variable: Variable) -> bool {
        self.0.contains(&Segment::Variable(variable))
    }

    /// Whether two sessions of the same id, or of any two, always read differently here: a principal and an id, and between
    /// them what neither of the two can contain.
    pub fn tells_sessions_apart(&self) -> bool {
        let neither = |c: char| !c.is_ascii_alphanumeric() && !"._~-".contains(c);
        let mut before: Option<(Variable, bool)> = None;
        for segment in &self.0 {
            match segment {
                Segment::Text(text) => {
                    if let Some((_, apart)) = &mut before {
                        *apart |= text.contains(neither);
                    }
                }
                Segment::Variable(variable @ (Variable::Principal | Variable::SessionId)) => {
                    if before.is_some_and(|(other, apart)| apart && other != *variable) {
                        return true;
                    }
                    before = Some((*variable, false));
                }
                Segment::Variable(_) => {}
            }
        }
        false
    }

    pub fn render(&self, values: &Values) -> String {
        let mut out = String::new();
        for segment in &self.0 {
            match segment {
                Segment::Text(text) => out.push_str(text),
                Segment::Variable(Variable::Port) => {
                    if let Some(port) = values.port {
                        out.push_str(&port.to_string());
                    }
                }
                Segment::Variable(Variable::Socket) => out.push_str(values.socket.as_deref().unwrap_or("")),
                Segment::Variable(Variable::SessionId) => {
                    out.push_str(values.session_id.as_deref().unwrap_or(""));
                }
                Segment::Variable(Variable::Principal) => {
                    out.push_str(values.principal.as_deref().unwrap_or(""));
                }
                Segment::Variable(Variable::Worker) => out.push_str(&values.worker),
                Segment::Variable(Variable::Dir) => out.push_str(&values.dir),
            }
        }
        out
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unclosed { at } => {
                write!(
                    f,
                    "the {{{{ at byte {at} is never closed; write e.g. {{{{.Port}}}}"
                )
            }
            Self::Unknown { name, .. } => write!(
                f,
                "{{{{{name}}}}} is not a template herd knows; use one of \
                 {{{{.Port}}}} {{{{.Socket}}}} {{{{.SessionID}}}} {{{{.Principal}}}} {{{{.Worker}}}} {{{{.Dir}}}}"
            ),
        }
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_replaced_and_the_rest_is_kept() {
        let values = Values {
            port: Some(1),
            socket: Some("/s".to_owned()),
            session_id: Some("id".to_owned()),
            principal: Some("alice".to_owned()),
            worker: "browser".to_owned(),
            dir: "/d".to_owned(),
        };
        let render = |text| Template::parse(text).map(|template| template.render(&values));
        assert_eq!(
            render("{{.Port}} {{ .Socket }}-{{.Principal}}.{{.SessionID}}{{.Worker}}={{.Dir}}}} {x}"),
            Ok("1 /s-alice.idbrowser=/d}} {x}".to_owned())
        );
        assert_eq!(render(""), Ok(String::new()));
    }

    #[test]
    fn unknown_and_unclosed_templates_are_refused() {
        let error = |text| Template::parse(text).expect_err("refused");
        assert_eq!(error("ä{{.Port"), TemplateError::Unclosed { at: 2 });
        assert_eq!(
            error("{{.port}}"),
            TemplateError::Unknown {
                at: 0,
                name: ".port".to_owned()
            }
        );
        assert_eq!(
            error("{{Port}}"),
            TemplateError::Unknown {
                at: 0,
                name: "Port".to_owned()
            }
        );
        assert_eq!(
            error("{{}}"),
            TemplateError::Unknown {
                at: 0,
                name: String::new()
            }
        );
    }
}
