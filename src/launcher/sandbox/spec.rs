//! The OCI runtime specification of a sandbox, for libcontainer.
//!
//! Only what has to be done inside the container's own namespaces is in it. The file system is built by the
//! keeper ([`super::files`]); limits, descriptors, system call filter and the last steps are the keeper's and
//! the [executor's](super::init).

use std::collections::HashSet;

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount,
    MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::files;
use super::identity::Identity;
use crate::bundle::{MASKED, READ_ONLY};

/// The user and the PID namespace exist already ([`super::launch`]); libcontainer is told that there are some.
pub(super) fn spec(identity: &Identity, hostname: &str) -> Result<Spec, OciSpecError> {
    let namespaces = [
        LinuxNamespaceType::User,
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
        LinuxNamespaceType::Cgroup,
    ];
    let namespaces = namespaces
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect::<Result<Vec<_>, _>>()?;
    let text = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    // To give the only id there is another name, its owner has to be able to give files capabilities
    // (user_namespaces(7)); the executor drops this one with all others.
    let needed = HashSet::from_iter(identity.rename.map(|_| Capability::Setfcap));
    let none = HashSet::new;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .masked_paths(text(&MASKED))
        .readonly_paths(text(&READ_ONLY))
        .build()?;
    // Its default asks for device rules; there are no devices to rule over.
    linux.set_resources(None);
    let process = ProcessBuilder::default()
        .args(vec!["worker".to_owned()])
        // Without HOME libcontainer would look for one in the container's own user database.
        .env(vec![format!("HOME={}", files::HOME)])
        .cwd("/")
        .user(
            UserBuilder::default()
                .uid(identity.user)
                .gid(identity.user)
                .build()?,
        )
        .no_new_privileges(true)
        .capabilities(
            LinuxCapabilitiesBuilder::default()
                .bounding(needed.clone())
                .effective(needed.clone())
                .inheritable(none())
                .permitted(needed)
                .ambient(none())
                .build()?,
        )
        .rlimits(Vec::new())
        .build()?;
    SpecBuilder::default()
        .version("1.0.2")
        .root(RootBuilder::default().path(files::ROOT).readonly(false).build()?)
        .hostname(hostname)
        .process(process)
        .mounts(mounts(identity)?)
        .linux(linux)
        .build()
}

fn mounts(identity: &Identity) -> Result<Vec<Mount>, OciSpecError> {
    // gid 5 is `tty` everywhere, where there is such a gid.
    let tty = identity
        .gids
        .iter()
        .any(|line| line.inside == 0 && line.count > 5);
    // The kernel has a number for the whole host.
    let pts = match tty {
        true => "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5,max=256",
        false => "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,max=256",
    };
    let rows = [
        ("proc", "/proc", "proc", "nosuid,noexec,nodev"),
        (
            "tmpfs",
            "/dev",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=64k,nr_inodes=256",
        ),
        ("devpts", "/dev/pts", "devpts", pts),
        (files::SHM, "/dev/shm", "bind", "bind,nosuid,noexec,nodev"),
    ];
    let mount = |(source, destination, kind, options): (&str, &str, &str, &str)| {
        MountBuilder::default()
            .source(source)
            .destination(destination)
            .typ(kind)
            .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
            .build()
    };
    rows.into_iter().map(mount).collect()
}
