//! What the goals of a build are to make, as far as that is a kernel or modules.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The images that a build has to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// A kernel, or modules, or both: what the default goal is depends on the tree.
    pub(super) any: bool,
    pub(super) kernel: bool,
    pub(super) modules: bool,
    /// Modules that were asked for by name.
    pub(super) files: Vec<PathBuf>,
}

impl Wanted {
    /// What these goals make (Linux, `make help`).
    pub(super) fn by(goals: &[String]) -> Self {
        let mut wanted = Self { any: goals.is_empty(), ..Self::default() };
        for goal in goals {
            let is_module = Path::new(goal).extension().is_some_and(|extension| extension == "ko");
            match file_name(goal) {
                _ if is_module => wanted.files.push(PathBuf::from(goal)),
                "all" => wanted.any = true,
                "vmlinux" | "bzImage" | "zImage" | "Image" | "bzlilo" | "zlilo" | "isoimage" | "hdimage" => {
                    wanted.kernel = true;
                }
                "modules" => wanted.modules = true,
                name if name.starts_with("fdimage") => wanted.kernel = true,
                name if name.ends_with("-pkg") && !name.contains("src") => wanted.any = true,
                _ => {}
            }
        }
        wanted
    }

    /// What either asks for by name, and the default goal of this one.
    pub(super) fn or(mut self, other: Self) -> Self {
        self.kernel |= other.kernel;
        self.modules |= other.modules;
        self.files.extend(other.files);
        self
    }

    /// Whether an image was asked for by name.
    pub(super) fn names(&self, image: &Path) -> bool {
        self.files.iter().any(|file| ends_with(image, file))
    }

    /// What of it is not among these images. Linux may have been configured to have no modules.
    pub(super) fn missing(&self, images: &[PathBuf], has_no_modules: bool) -> Option<String> {
        let has_kernel = images.iter().any(|image| !is_module(image));
        let has_module = images.iter().any(|image| is_module(image));
        let missing = self.files.iter().find(|file| !images.iter().any(|image| ends_with(image, file)));
        match missing {
            Some(file) => Some(file.display().to_string()),
            None if self.kernel && !has_kernel => Some("kernel".to_owned()),
            None if self.modules && !has_module && !has_no_modules => Some("module".to_owned()),
            None if self.any && images.is_empty() => Some("kernel and no module".to_owned()),
            None => None,
        }
    }
}

/// Whether an image is a module rather than a kernel.
pub(super) fn is_module(image: &Path) -> bool {
    image.extension().is_some_and(|extension| extension == "ko")
}

fn ends_with(image: &Path, goal: &Path) -> bool {
    // `./x.ko` and `../x.ko` name what make finds from elsewhere.
    let goal: PathBuf = goal.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    image.ends_with(goal)
}

fn file_name(goal: &str) -> &str {
    Path::new(goal).file_name().and_then(OsStr::to_str).unwrap_or(goal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_that_make_images() {
        let any = || Wanted { any: true, ..Wanted::default() };
        let kernel = || Wanted { kernel: true, ..Wanted::default() };
        let modules = || Wanted { modules: true, ..Wanted::default() };
        let file = |file: &str| Wanted { files: vec![PathBuf::from(file)], ..Wanted::default() };
        for (goals, expected) in [
            ("", any()),
            ("all", any()),
            ("olddefconfig all", any()),
            ("bindeb-pkg", any()),
            ("tarxz-pkg", any()),
            ("vmlinux", kernel()),
            ("/out/vmlinux", kernel()),
            ("arch/x86/boot/bzImage", kernel()),
            ("fdimage288", kernel()),
            ("modules", modules()),
            ("drivers/net/tun.ko", file("drivers/net/tun.ko")),
            ("defconfig", Wanted::default()),
            ("kernel/fork.o modules_prepare", Wanted::default()),
            ("modules_install headers_install", Wanted::default()),
            ("srcrpm-pkg perf-tar-src-pkg", Wanted::default()),
        ] {
            let goals: Vec<String> = goals.split_whitespace().map(str::to_owned).collect();
            assert_eq!(Wanted::by(&goals), expected, "{goals:?}");
        }
    }

    #[test]
    fn what_is_not_shown_is_missing() {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        for (goals, images, expected) in [
            (&[] as &[&str], &[] as &[&str], Some("kernel and no module")),
            (&[], &["/o/m.ko"], None),
            (&["bzImage"], &["/o/m.ko"], Some("kernel")),
            (&["bzImage"], &["/o/vmlinux"], None),
            (&["vmlinux", "modules"], &["/o/vmlinux"], Some("module")),
            (&["./d/m.ko"], &["/o/x/m.ko"], Some("./d/m.ko")),
            (&["./d/m.ko"], &["/o/d/m.ko"], None),
            (&["defconfig"], &[], None),
        ] {
            let goals: Vec<String> = goals.iter().map(ToString::to_string).collect();
            assert_eq!(Wanted::by(&goals).missing(&paths(images), false).as_deref(), expected, "{goals:?}");
        }
    }
}
