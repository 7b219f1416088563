//! Links of rendered pages: each leads to a file that is there, and to a place in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use regex::Regex;

/// What mdBook makes of all chapters at once, and for a server that finds no page.
const LEFT_OUT: [&str; 3] = ["404.html", "print.html", "toc.html"];

static PLACE: LazyLock<Regex> = LazyLock::new(|| attribute(r"\sid"));
static LINK: LazyLock<Regex> = LazyLock::new(|| attribute(r"\s(?:href|src)"));

fn attribute(name: &str) -> Regex {
    Regex::new(&format!(r#"{name}="([^"]*)""#)).expect("an expression")
}

/// Where links can lead, and where they do.
#[derive(Default)]
struct Page {
    places: BTreeSet<String>,
    links: BTreeSet<String>,
}

impl Page {
    fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let all = |expression: &Regex| {
            expression.captures_iter(&text).map(|found| found[1].to_owned()).collect()
        };
        Ok(Self { places: all(&PLACE), links: all(&LINK) })
    }
}

/// Fails with all links that lead nowhere; links to other hosts are not followed. Returns how many
/// pages there are.
pub fn check(folder: &Path) -> Result<usize> {
    let mut pages = BTreeMap::new();
    find(folder, &mut pages)?;
    let mut broken = Vec::new();
    for (path, page) in &pages {
        for link in page.links.iter().filter(|link| !leads(link, path, &pages)) {
            let name = path.strip_prefix(folder).unwrap_or(path);
            broken.push(format!("{}: {link}", name.display()));
        }
    }
    match broken.is_empty() {
        true => Ok(pages.len()),
        false => bail!("links that lead nowhere:\n  {}", broken.join("\n  ")),
    }
}

fn find(folder: &Path, pages: &mut BTreeMap<PathBuf, Page>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_page = path.extension().is_some_and(|extension| extension == "html");
        let is_left_out = LEFT_OUT.iter().any(|name| path.ends_with(name));
        if path.is_dir() {
            find(&path, pages)?;
        } else if is_page && !is_left_out {
            let page = Page::read(&path)?;
            pages.insert(path, page);
        }
    }
    Ok(())
}

/// Whether a link of a page leads somewhere.
fn leads(link: &str, from: &Path, pages: &BTreeMap<PathBuf, Page>) -> bool {
    if link.contains("://") || link.starts_with("mailto:") || link.starts_with("data:") {
        return true;
    }
    let (file, place) = link.split_once('#').unwrap_or((link, ""));
    let path = match (file, from.parent()) {
        ("", _) | (_, None) => from.to_owned(),
        (file, Some(folder)) => normal(&folder.join(file)),
    };
    match pages.get(&path) {
        Some(page) => place.is_empty() || page.places.contains(place),
        None => place.is_empty() && path.exists(),
    }
}

/// Without `..` and `.`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => _ = normal.pop(),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("written");
        };
        fs::create_dir(folder.path().join("part")).expect("a folder");
        write("style.css", "");
        write("404.html", "<a href=\"nowhere\">");
        write("other.html", "<h1 id=\"top\">");
        write("part/page.html", page);
        check(folder.path()).map_or_else(|error| error.to_string(), |pages| pages.to_string())
    }

    #[test]
    fn links_lead_to_files_and_places() {
        let page = "<link href=\"../style.css\"><a id=\"a\" href=\"#a\"><a href=\"../other.html\">\
                    <a href=\"./../other.html#top\"><a href=\"https://a.b\"><a href=\"../part\">";
        assert_eq!(found(page), "2");
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        for link in ["#b", "other.html", "../other.html#b", "../style.css#b", "../image.svg"] {
            let error = found(&format!("<img src=\"{link}\">"));
            let name = Path::new("part").join("page.html");
            assert_eq!(error, format!("links that lead nowhere:\n  {}: {link}", name.display()));
        }
    }
}
