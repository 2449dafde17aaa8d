//! The pages: a few lines of HTML without scripts. Every word that is not ours is cleaned, so that it turns no line and hides nothing,
//! and escaped; every address is percent-encoded. Pure.

use crate::model::text::clean_bytes;
use crate::model::{Name, RelPath};
use crate::protocol::percent;
use crate::server::share::tree::{Item, Kind};
use std::fmt::Write;

/// The only style there is; the header that allows it names its hash.
pub(crate) const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}td{padding:.25rem .5rem;border-top:1px solid #ccc;word-break:break-word}\
td:nth-child(n+2){text-align:right;white-space:nowrap;color:#555}a{color:#05c;text-decoration:none}\
input,button{font:inherit;padding:.4rem .6rem}small,.note{color:#555}";

/// Things on one page of a folder.
pub(crate) const PAGE_ITEMS: usize = 1000;

/// Text as it may stand in HTML, between tags and in attributes.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// A name or path of the tree, for people.
fn shown(bytes: &[u8]) -> String {
    escaped(&clean_bytes(bytes))
}

/// Where a folder is shown, a file is given, or a zip is made.
pub(crate) fn address(token: &str, what: &str, path: Option<&RelPath>) -> String {
    let parts = path.map(|path| path.components().map(percent::encoded).collect::<Vec<_>>().join("/"));
    format!("/s/{token}/{what}/{}", parts.unwrap_or_default())
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>{body}</body></html>"
    )
}

/// Asks for the PIN; `mark` goes back with it, and `problem` says what was wrong with the last one.
pub(crate) fn pin(alias: &str, mark: &str, problem: Option<&str>) -> String {
    let alias = shown(alias.as_bytes());
    let problem = problem.map(|problem| format!("<p><strong>{}</strong></p>", escaped(problem))).unwrap_or_default();
    let body = format!(
        "<h1>{alias} shares something</h1>{problem}<p>The PIN is on its screen.</p>\
         <form method=\"post\" action=\"/\"><input type=\"hidden\" name=\"mark\" value=\"{mark}\"><input name=\"pin\" inputmode=\"numeric\" autocomplete=\"off\" autofocus required \
         maxlength=\"40\" aria-label=\"PIN\"> <button>Open</button></form>\
         <p><small>This page is not encrypted: use it in a network whose people you trust.</small></p>"
    );
    page(&alias, &body)
}

/// Says why not.
pub(crate) fn refusal(message: &str) -> String {
    let message = escaped(message);
    page(&message, &format!("<p>{message}</p><p><a href=\"/\">Back to the beginning</a></p>"))
}

/// A folder: what is in it, from one name on.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    /// The caller's.
    pub(crate) token: &'a str,
    /// What is shared.
    pub(crate) title: &'a str,
    /// Which folder of it.
    pub(crate) folder: Option<&'a RelPath>,
    /// What is in it, at most [`PAGE_ITEMS`] and one more.
    pub(crate) items: &'a [Item],
    /// It begins in the middle.
    pub(crate) is_continued: bool,
}

impl Listing<'_> {
    /// The page.
    pub(crate) fn html(&self) -> String {
        let title = shown(self.title.as_bytes());
        let mut body = format!("<h1>{title}</h1>");
        if let Some(folder) = self.folder {
            let up = address(self.token, "browse", folder.parent().as_ref());
            let _ = write!(body, "<p>{} &middot; <a href=\"{up}\">up</a></p>", shown(folder.as_bytes()));
        }
        let zip = address(self.token, "zip", self.folder);
        let _ = write!(body, "<p><a href=\"{zip}\">Download all of this as one zip file</a></p><table>");
        for item in self.items.iter().take(PAGE_ITEMS) {
            self.row(item, &mut body);
        }
        body.push_str("</table>");
        if self.items.is_empty() && !self.is_continued {
            body.push_str("<p class=\"note\">Nothing is in it.</p>");
        }
        if let Some(last) = self.items.get(PAGE_ITEMS - 1).filter(|_| self.items.len() > PAGE_ITEMS) {
            let here = address(self.token, "browse", self.folder);
            let after = percent::encoded(last.path.name().as_bytes());
            let _ = write!(body, "<p><a href=\"{here}?after={after}\">more</a></p>");
        }
        page(&title, &body)
    }

    fn row(&self, item: &Item, body: &mut String) {
        let name: Name = item.path.name();
        let name = shown(name.as_bytes());
        let time = item.mtime.and_then(|time| jiff::Timestamp::from_second(time.seconds()).ok());
        let time = time.map(|time| time.strftime("%Y-%m-%d %H:%M").to_string()).unwrap_or_default();
        let _ = match item.kind {
            Kind::Folder => {
                let there = address(self.token, "browse", Some(&item.path));
                write!(body, "<tr><td><a href=\"{there}\">{name}/</a></td><td></td><td>{time}</td></tr>")
            }
            Kind::File(size) => {
                let there = address(self.token, "file", Some(&item.path));
                let size = bytes(size);
                write!(body, "<tr><td><a href=\"{there}\">{name}</a></td><td>{size}</td><td>{time}</td></tr>")
            }
            Kind::Other => write!(body, "<tr><td>{name} <small>(a link)</small></td><td></td><td>{time}</td></tr>"),
        };
    }
}

/// A size for people.
fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut value = size as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// What a download is called: for browsers that know the standard any name, for others its plain part.
pub(crate) fn disposition(name: &[u8]) -> String {
    let plain: String = name
        .iter()
        .map(|byte| if byte.is_ascii_alphanumeric() || b" -_.()".contains(byte) { char::from(*byte) } else { '_' })
        .collect();
    let whole = percent::encoded(String::from_utf8_lossy(name).as_bytes());
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(path: &[u8], kind: Kind) -> Item {
        Item { path: RelPath::new(path).unwrap(), kind, mtime: None, sha256: None }
    }

    /// Every tag of a page is one of ours, and no attribute holds a quote that could end it.
    fn tags(html: &str) -> Vec<&str> {
        html.split('<').skip(1).map(|rest| rest.split('>').next().unwrap_or_default()).collect()
    }

    #[test]
    fn no_name_becomes_a_tag_an_attribute_or_a_line() {
        let hostile: &[&[u8]] = &[
            b"<script>alert(1)<|script>",
            b"\"><img src=x onerror=alert(1)>",
            b"' onmouseover='x",
            b"javascript:alert(1)",
            b"&lt;b&gt;",
            "a\u{202e}gnp.exe\u{1b}[31m\n".as_bytes(),
            b"\xff\xfe<",
            b"..%2f..",
            b"?after=x#y",
        ];
        let honest =
            Listing { token: "t", title: "t", folder: None, items: &[item(b"a", Kind::File(1))], is_continued: false };
        let shape = tags(&honest.html()).len();
        for name in hostile {
            for kind in [Kind::File(1), Kind::Folder, Kind::Other] {
                let items = [item(name, kind)];
                let listing = Listing { token: "t", title: "t", folder: None, items: &items, is_continued: false };
                let html = listing.html();
                let found = tags(&html).len();
                assert_eq!(found, shape, "{html}");
                assert!(html.chars().all(crate::model::text::is_printable), "{html}");
                assert!(!html.contains("onerror=alert") || html.contains("&gt;"), "{html}");
            }
            let folder = RelPath::new(*name).unwrap();
            let title = String::from_utf8_lossy(name);
            let listing = Listing { token: "t", title: &title, folder: Some(&folder), items: &[], is_continued: false };
            assert!(!listing.html().contains("<img") && !listing.html().contains("<script"));
            assert!(
                tags(&pin(&title, "m", Some(&title)))
                    .iter()
                    .all(|tag| !tag.starts_with("img") && !tag.contains("alert"))
            );
            assert!(
                !disposition(name)[21..]
                    .split(';')
                    .next()
                    .unwrap()
                    .trim_matches(['=', '"'])
                    .contains(['"', '\n', '\r', '\\'])
            );
            assert!(disposition(name).bytes().all(|b| (0x20..0x7f).contains(&b)));
        }
    }

    #[test]
    fn a_long_folder_goes_on_after_the_last_name_of_the_page() {
        let items: Vec<Item> = (0..=PAGE_ITEMS).map(|n| item(format!("d/{n:05}").as_bytes(), Kind::File(0))).collect();
        let folder = RelPath::new(&b"d"[..]).unwrap();
        let listing = Listing { token: "t", title: "t", folder: Some(&folder), items: &items, is_continued: false };
        assert!(listing.html().contains("/s/t/browse/d?after=00999\">more"));
        let last = Listing { items: &items[..PAGE_ITEMS], ..listing };
        assert!(!last.html().contains(">more<"));
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!((bytes(0), bytes(1536), bytes(5 << 30)), ("0 B".into(), "1.5 KiB".into(), "5.0 GiB".into()));
    }
}
