//! Small languages inside a deployment file: sizes, shares of cores, ports, words of a command, image names.
//!
//! Each function takes the text of one value and answers with the value, or with what is wrong and what to write instead.

use std::path::PathBuf;

use super::{
    limits,
    model::{Image, LocalForm},
};

/// What is wrong, and what to do.
pub(crate) type Wrong = (String, String);

fn wrong<T>(why: impl Into<String>, cure: impl Into<String>) -> Result<T, Wrong> {
    Err((why.into(), cure.into()))
}

/// A size with an optional unit: `512m`, `1.5gb`, `2GiB`, `1048576`. All units are powers of 1024, as in Compose.
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    let cure = "write a number and a unit, such as 256m or 1.5g (k, m, g, t: powers of 1024)";
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let power = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        _ => return wrong(format!("'{text}' is not a size"), cure),
    };
    let Some((digits, scale)) = decimal(number) else {
        return wrong(format!("'{text}' is not a size"), cure);
    };
    let bytes = digits.checked_mul(1 << (10 * power)).map(|units| units / scale);
    match bytes.and_then(|bytes| u64::try_from(bytes).ok()) {
        Some(bytes) if bytes <= limits::SIZE_BYTES_MAX => Ok(bytes),
        _ => wrong(format!("'{text}' is more than any machine has"), cure),
    }
}

/// A share of cores, `0.5` or `2`, in thousandths.
pub(crate) fn cpus(text: &str) -> Result<u64, Wrong> {
    let cure = "write a number of cores with at most three decimals, such as 0.5 or 2";
    let Some((digits, scale)) = decimal(text.trim()) else {
        return wrong(format!("'{text}' is not a number of cores"), cure);
    };
    let Some(milli) = digits.checked_mul(1000) else {
        return wrong(format!("'{text}' is not a number of cores"), cure);
    };
    if milli % scale != 0 {
        return wrong(format!("'{text}' is finer than a thousandth of a core"), cure);
    }
    match u64::try_from(milli / scale) {
        Ok(0) => wrong("zero cores cannot run anything", cure),
        Ok(milli) if milli <= limits::CPU_MILLI_MAX => Ok(milli),
        _ => wrong(format!("'{text}' is more cores than any machine has"), cure),
    }
}

/// Digits without the point, and the power of ten that they are to be divided by.
fn decimal(text: &str) -> Option<(u128, u128)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || all.len() > 30 || fraction.len() > 12 || !all.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some((all.parse().ok()?, 10_u128.pow(u32::try_from(fraction.len()).ok()?)))
}

/// A port number.
pub(crate) fn port(text: &str) -> Result<u16, Wrong> {
    match text.trim().parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => wrong(format!("'{text}' is not a port"), "write a number from 1 to 65535"),
    }
}

/// A published port in Compose's short form, `[[address:]published:]target[/protocol]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    /// The port in the workload.
    pub(crate) target: u16,
    /// The port of the host, which plays no part here.
    pub(crate) published: Option<String>,
}

/// Reads the short form.
pub(crate) fn publish(text: &str) -> Result<Publish, Wrong> {
    let (ports, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
    if protocol != "tcp" {
        return wrong(
            format!("only TCP ports can be opened, not '{protocol}'"),
            "leave it out: services of one deployment reach each other on every port and protocol",
        );
    }
    let (published, target) = match ports.rsplit_once(':') {
        Some((published, target)) => (Some(published.to_owned()), target),
        None => (None, ports),
    };
    if target.contains('-') {
        return wrong(format!("'{text}' is a range of ports"), "list each port on a line of its own");
    }
    Ok(Publish { target: port(target)?, published })
}

/// Splits a command as a shell does: blanks separate, quotes and backslashes protect. Nothing else is special.
pub(crate) fn words(text: &str) -> Result<Vec<String>, Wrong> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => match chars.next() {
                Some(next) => {
                    let word = word.get_or_insert_default();
                    if quote.is_some() && !matches!(next, '"' | '\\' | '$' | '`') {
                        word.push('\\');
                    }
                    word.push(next);
                }
                None => return wrong("the command ends with a backslash", "write the command as a list of words"),
            },
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(quote) = quote {
        return wrong(format!("a {quote} is not closed"), "close it, or write the command as a list of words");
    }
    words.extend(word);
    Ok(words)
}

/// Replaces `$$` by `$`. Compose would fill in `$NAME` from the shell of whoever deploys, which is refused.
pub(crate) fn undollar(text: &str) -> Result<String, Wrong> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '$' && chars.next_if_eq(&'$').is_none() {
            return wrong(
                "variables (`$NAME`) are not filled in",
                "write the value itself, or `$$` where a dollar sign is meant",
            );
        }
        out.push(c);
    }
    Ok(out)
}

/// An absolute path inside the workload, or of a health check.
pub(crate) fn absolute(text: &str) -> Result<String, Wrong> {
    if text.starts_with('/') && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        wrong(format!("'{text}' is not an absolute path"), "write it with a / in front")
    }
}

/// A constraint `key=value`.
pub(crate) fn constraint(text: &str) -> Result<String, Wrong> {
    let cure = "write key=value, such as zone=attic";
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => {}
        _ => return wrong(format!("'{text}' is not a constraint"), cure),
    }
    if text.len() > atoll_base::limits::LABEL_BYTES_MAX || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let max = atoll_base::limits::LABEL_BYTES_MAX;
        return wrong(format!("'{text}' is longer than {max} bytes or has blanks in it"), cure);
    }
    Ok(text.to_owned())
}

/// The forms of an image name, for messages.
pub(crate) const IMAGE_FORMS: &str = "write `oci-layout:FOLDER`, `docker-archive:FILE` (what `docker save` writes), or \
    `REGISTRY/REPOSITORY@sha256:DIGEST`";

/// Reads an image name.
pub(crate) fn image(text: &str) -> Result<Image, Wrong> {
    if let Some(rest) = text.strip_prefix("oci-layout:") {
        // A tag has no slash, a path before it may have a colon.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        return local(LocalForm::OciLayout, path, tag);
    }
    if let Some(rest) = text.strip_prefix("docker-archive:") {
        // As skopeo has it: FILE[:REPOSITORY:TAG], so the path ends at the first colon.
        let (path, tag) = rest.split_once(':').map_or((rest, None), |(path, tag)| (path, Some(tag)));
        return local(LocalForm::DockerArchive, path, tag);
    }
    registry(text)
}

fn local(form: LocalForm, path: &str, tag: Option<&str>) -> Result<Image, Wrong> {
    if path.is_empty() {
        return wrong("no path after the colon", IMAGE_FORMS);
    }
    if tag.is_some_and(str::is_empty) {
        return wrong("no tag after the last colon", "write the tag, or leave the colon out");
    }
    Ok(Image::Local { form, path: PathBuf::from(path), tag: tag.map(str::to_owned) })
}

fn registry(text: &str) -> Result<Image, Wrong> {
    let Some((name, digest)) = text.split_once('@') else {
        let host = text.split('/').next().unwrap_or_default();
        if !text.contains('/') || !is_host(host) {
            return wrong(
                format!("'{text}' names no registry, and no registry is asked that you did not name"),
                IMAGE_FORMS,
            );
        }
        return wrong(
            format!("'{text}' may mean another image tomorrow"),
            "pin it: add `@sha256:` and the digest, which `skopeo inspect` or `docker images --digests` show",
        );
    };
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() != 64 || !hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
        return wrong(format!("'{digest}' is not a digest"), "write sha256: and 64 hexadecimal digits");
    }
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    match repository.split_once('/') {
        Some((host, path)) if is_host(host) && is_repository(path) => {}
        Some((host, path)) if is_host(host) => {
            return wrong(format!("'{path}' is not the path of a repository"), "use a-z, 0-9, '.', '_', '-' and '/'");
        }
        _ => {
            return wrong(
                format!("'{name}' names no registry, and no registry is asked that you did not name"),
                IMAGE_FORMS,
            );
        }
    }
    Ok(Image::Registry { repository: repository.to_owned(), digest: digest.to_owned() })
}

/// As in Docker's reference grammar: the first part is a host if it has a point or a port, or is `localhost`.
fn is_host(host: &str) -> bool {
    (host == "localhost" || host.contains(['.', ':']))
        && host.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b':' | b'-' | b'[' | b']'))
}

fn is_repository(path: &str) -> bool {
    !path.is_empty()
        && path.split('/').all(|part| {
            !part.is_empty()
                && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'_' | b'-'))
        })
}
