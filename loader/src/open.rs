//! From the bytes of an object file to programs and maps that exist.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use libbpf_rs::{AsRawLibbpf, MapCore, MapType, Object, ObjectBuilder, OpenObject, ProgramType};
use object::btf::Btf;

use crate::attach::{self, Attached};
use crate::buffers::{Buffers, PERF_PAGES};
use crate::error::Error;
use crate::messages;
use crate::reason::Cause;
use crate::rights;
use crate::target::{self, Place, Target};
use crate::usdt;

/// How an object is opened.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Its name; that of the file, or one of ours.
    pub name: String,
    /// Types of the kernel that it is relocated against, in place of
    /// /sys/kernel/btf/vmlinux.
    pub btf: Option<PathBuf>,
}

/// A program of an object, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its function.
    pub name: String,
    /// Its ELF section.
    pub section: String,
    /// Its type by that section.
    pub kind: ProgramType,
    /// Which of the ways to attach programs of that type, as the kernel numbers them.
    pub attach_type: u32,
}

/// A map of an object, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapInfo {
    /// As the kernel will know it; of a section of variables, the object's name
    /// and the section's.
    pub name: String,
    /// Whether it is a section of variables.
    pub is_section: bool,
    /// Whether a process can map it.
    pub is_mappable: bool,
    /// Its type, as the kernel numbers it.
    pub kind: u32,
}

/// An object whose file was read; nothing of it exists yet.
pub struct Opened {
    name: String,
    object: OpenObject,
}

impl Opened {
    /// Reads an object file.
    ///
    /// # Errors
    /// If it is none, or libbpf finds something wrong in it.
    pub fn read(bytes: &[u8], options: &Options) -> Result<Opened, Error> {
        messages::keep();
        let name = &options.name;
        let refuse = |what: &str, error: &libbpf_rs::Error| Error::last(name, what, error);
        let mut builder = ObjectBuilder::default();
        builder
            .name(name)
            .map_err(|error| refuse("has a name with a NUL byte", &error))?;
        if let Some(path) = &options.btf {
            builder.btf_custom_path(path).map_err(|error| {
                refuse("is to use types of a file that cannot be named", &error)
            })?;
        }
        let object = builder
            .open_memory(bytes)
            .map_err(|error| Error::unread(refuse("is no object of eBPF programs", &error)))?;
        Ok(Opened {
            name: name.clone(),
            object,
        })
    }

    /// Its programs.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        self.object.progs().map(|program| info(&program)).collect()
    }

    /// Those that will be loaded.
    fn to_be_loaded(&self) -> Vec<ProgramInfo> {
        let chosen = |program: &libbpf_rs::OpenProgram<'_>| {
            // SAFETY: the program is the open object's, which is borrowed.
            unsafe { libbpf_sys::bpf_program__autoload(program.as_libbpf_object().as_ptr()) }
        };
        let chosen = self.object.progs().filter(chosen);
        chosen.map(|program| info(&program)).collect()
    }

    /// Its maps.
    pub fn maps(&self) -> Vec<MapInfo> {
        let info = |map: libbpf_rs::OpenMap<'_>| {
            let raw = map.as_libbpf_object().as_ptr();
            // SAFETY: the map is the open object's, which is borrowed.
            let (is_section, flags, kind) = unsafe {
                let is_section = libbpf_sys::bpf_map__is_internal(raw);
                let flags = libbpf_sys::bpf_map__map_flags(raw);
                (is_section, flags, libbpf_sys::bpf_map__type(raw))
            };
            MapInfo {
                name: text(map.name()),
                is_section,
                is_mappable: flags & libbpf_sys::BPF_F_MMAPABLE != 0,
                kind,
            }
        };
        self.object.maps().map(info).collect()
    }

    /// The types that its file describes; `None` if it has none.
    ///
    /// # Errors
    /// EINVAL for what the kernel would not take.
    pub fn types(&self) -> Result<Option<Btf>, Error> {
        let mut size = 0;
        // SAFETY: the object is open; its description lives as long, and raw
        // data of it as long as it.
        let bytes = unsafe {
            let btf = libbpf_sys::bpf_object__btf(self.object.as_libbpf_object().as_ptr());
            if btf.is_null() {
                return Ok(None);
            }
            let data = libbpf_sys::btf__raw_data(btf, &raw mut size);
            if data.is_null() {
                return Err(Error::new(
                    &self.name,
                    "has types without data",
                    libc::ENOMEM,
                ));
            }
            std::slice::from_raw_parts(data.cast::<u8>(), size as usize)
        };
        let parsed = Btf::parse(bytes);
        parsed
            .map(Some)
            .map_err(|error| Error::new(&self.name, error.text, libc::EINVAL))
    }

    /// What a section of variables (`.rodata`, `.data.x`, …) holds when the
    /// object is loaded, to be changed before. `None` if there is no such section.
    pub fn section_mut(&mut self, section: &str) -> Option<&mut [u8]> {
        self.object.maps_mut().find_map(|mut map| {
            // libbpf puts the object's name before the section's.
            let found = text(map.name()).ends_with(section);
            if !found {
                return None;
            }
            let bytes = map.initial_value_mut()?;
            let bytes: *mut [u8] = bytes;
            // SAFETY: the memory is the open object's, which `self` borrows
            // mutably for as long as the result lives.
            Some(unsafe { &mut *bytes })
        })
    }

    /// Leaves a program out when the object is loaded.
    pub fn leave_out(&mut self, program: &str) {
        for mut found in self.object.progs_mut() {
            if found.name() == OsStr::new(program) {
                found.set_autoload(false);
            }
        }
    }

    /// Names of maps whose size the object leaves to its own tool.
    fn unsized_maps(&self) -> Vec<String> {
        let is_unsized = |map: &libbpf_rs::OpenMap<'_>| {
            let raw = map.as_libbpf_object().as_ptr();
            // SAFETY: the map is the open object's, which is borrowed.
            let (kind, entries, value) = unsafe {
                let kind = MapType::from(libbpf_sys::bpf_map__type(raw));
                let entries = libbpf_sys::bpf_map__max_entries(raw);
                (kind, entries, libbpf_sys::bpf_map__value_size(raw))
            };
            match kind {
                MapType::StackTrace => entries == 0 || value == 0,
                // libbpf sets it.
                MapType::PerfEventArray => false,
                _ => entries == 0,
            }
        };
        let maps = self.object.maps().filter(is_unsized);
        maps.map(|map| text(map.name())).collect()
    }

    /// Makes its maps and loads its programs.
    ///
    /// # Errors
    /// The first program or map that is refused, with the verifier's log.
    pub fn load(mut self) -> Result<Loaded, Error> {
        self.object
            .maps_mut()
            .for_each(|mut map| usdt::make_room(&mut map));
        messages::take();
        let programs = self.to_be_loaded();
        if let Some(program) = programs.iter().find(|one| one.kind == ProgramType::Ext) {
            let place = target::place(&program.section, program.kind, &Target::Section);
            let what = place.err().unwrap_or_default();
            return Err(Error::new(&program.name, what, libc::EINVAL).caused(Cause::Elsewhere));
        }
        let unsized_maps = self.unsized_maps();
        let name = self.name;
        let object = self
            .object
            .load()
            .map_err(|error| Error::unloaded(&name, &programs, &unsized_maps, &error))?;
        Ok(Loaded {
            links: Vec::new(),
            buffers: HashMap::new(),
            probes: HashSet::new(),
            object,
            name,
        })
    }
}

/// An object whose programs and maps exist, until it is dropped.
pub struct Loaded {
    // Links go first, then what reads from maps, then the maps.
    links: Vec<Attached>,
    buffers: HashMap<String, Buffers>,
    /// Descriptions of static probes that are as programs read them.
    probes: HashSet<u32>,
    object: Object,
    name: String,
}

impl Loaded {
    /// Puts a program on its place. With a `pid`, user-space probes are those
    /// of that process only.
    ///
    /// # Errors
    /// ENOENT for an unknown program, EINVAL for a target that makes no sense,
    /// else what attaching says.
    pub fn attach(
        &mut self,
        program: &str,
        target: &Target,
        pid: Option<i32>,
    ) -> Result<(), Error> {
        messages::take();
        let known = self
            .programs()
            .into_iter()
            .find(|known| known.name == program);
        let Some(known) = known else {
            let what = format!("has no program {program}");
            return Err(Error::new(&self.name, what, libc::ENOENT));
        };
        let place = target::place(&known.section, known.kind, target).map_err(|what| {
            let cause = match target::by_others(known.kind) {
                Some(_) => Cause::Elsewhere,
                None => Cause::Target,
            };
            Error::new(program, what, libc::EINVAL).caused(cause)
        })?;
        let map = place.map().and_then(|name| self.map(name));
        let map = map.map(|map| map.as_fd().as_raw_fd());
        // SAFETY: the fd is the object's, which lives longer.
        let map = map.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
        let found = self
            .object
            .progs_mut()
            .find(|found| found.name() == OsStr::new(program));
        let Some(found) = found else {
            return Ok(());
        };
        let is_lsm = found.prog_type() == ProgramType::Lsm && place != Place::Nowhere;
        if let Some(text) = is_lsm.then(rights::no_lsm).flatten() {
            return Err(Error::new(program, text, libc::EOPNOTSUPP).caused(Cause::Kernel));
        }
        let links = attach::attach(&found, &place, pid.unwrap_or(-1), map);
        self.links.extend(links.map_err(|error| error.of(program))?);
        let specs = self.object.maps().find(|map| map.name() == usdt::SPECS);
        if let (Place::Usdt { .. }, Some(specs)) = (place, specs) {
            usdt::rewrite(&specs, &mut self.probes);
        }
        Ok(())
    }

    /// Attaches its operations (struct_ops) whose maps are not among these.
    ///
    /// # Errors
    /// What the kernel says of the first that it refuses.
    pub fn attach_operations(&mut self, without: &[String]) -> Result<(), Error> {
        for mut map in self.object.maps_mut() {
            let name = text(map.name());
            if map.map_type() != MapType::StructOps || without.contains(&name) {
                continue;
            }
            let link = map.attach_struct_ops();
            let link = link.map_err(|error| Error::last(&name, "cannot be attached", &error))?;
            self.links.push(Attached::Link(link));
        }
        Ok(())
    }

    /// Whether it has iterators, and nothing else that is attached.
    pub fn only_lists(&self) -> bool {
        let lists = |link: &Attached| matches!(link, Attached::Listing(_));
        !self.links.is_empty() && self.links.iter().all(lists)
    }

    /// Its iterators: the names of their programs, and what they say now.
    pub fn lists(&self) -> impl Iterator<Item = (&str, Result<impl Read + use<>, Error>)> {
        self.links.iter().filter_map(|link| match link {
            Attached::Listing(listing) => Some((&*listing.program, listing.read())),
            _ => None,
        })
    }

    /// Its programs that were loaded.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        let loaded = self.object.progs().filter(libbpf_rs::Program::autoload);
        loaded.map(|program| info(&program)).collect()
    }

    /// Its maps, those of global variables included.
    pub fn maps(&self) -> impl Iterator<Item = libbpf_rs::Map<'_>> {
        self.object.maps()
    }

    /// A map by its name; one of variables also by that of their section.
    pub fn map(&self, name: &str) -> Option<libbpf_rs::Map<'_>> {
        // libbpf puts the object's name before the section's.
        let of_section =
            |map: &libbpf_rs::Map<'_>| name.starts_with('.') && text(map.name()).ends_with(name);
        self.object
            .maps()
            .find(|map| map.name() == OsStr::new(name) || of_section(map))
    }

    /// Names of its maps from which records come.
    pub fn reporting(&self) -> Vec<String> {
        let reports = |map: &libbpf_rs::Map<'_>| {
            matches!(map.map_type(), MapType::RingBuf | MapType::PerfEventArray)
        };
        self.object
            .maps()
            .filter(reports)
            .map(|map| text(map.name()))
            .collect()
    }

    /// The buffer of one map, opened at its first use.
    ///
    /// # Errors
    /// ENOENT for an unknown map, EINVAL for one that reports nothing.
    pub fn buffer(&mut self, map: &str) -> Result<&mut Buffers, Error> {
        if !self.buffers.contains_key(map) {
            let found = self
                .map(map)
                .ok_or_else(|| Error::new(&self.name, format!("has no map {map}"), libc::ENOENT))?;
            let mut buffers = Buffers::new()?;
            buffers.add(0, &found)?;
            self.buffers.insert(map.to_owned(), buffers);
        }
        Ok(self.buffers.get_mut(map).expect("just inserted"))
    }

    /// One buffer for all maps that report; a record's source is its map's
    /// place in [`Loaded::reporting`].
    ///
    /// # Errors
    /// What the system says when one cannot be opened.
    pub fn buffers(&self) -> Result<Buffers, Error> {
        self.buffers_of(PERF_PAGES)
    }

    /// The same, with perf buffers of so many pages for each processor.
    ///
    /// # Errors
    /// As [`Loaded::buffers`]; EINVAL if the number is no power of two.
    pub fn buffers_of(&self, pages: usize) -> Result<Buffers, Error> {
        let mut buffers = Buffers::new()?.with_pages(pages);
        for (source, name) in self.reporting().iter().enumerate() {
            if let Some(map) = self.map(name) {
                buffers.add(source, &map)?;
            }
        }
        Ok(buffers)
    }
}

/// Of a program, loaded or not.
fn info(program: &impl AsRawLibbpf<LibbpfType = libbpf_sys::bpf_program>) -> ProgramInfo {
    let program = program.as_libbpf_object().as_ptr();
    // SAFETY: the program is its object's, which is borrowed, and so are its
    // names, which end with a zero.
    unsafe {
        let text = |name| CStr::from_ptr(name).to_string_lossy().into_owned();
        ProgramInfo {
            name: text(libbpf_sys::bpf_program__name(program)),
            section: text(libbpf_sys::bpf_program__section_name(program)),
            kind: libbpf_sys::bpf_program__type(program).into(),
            attach_type: libbpf_sys::bpf_program__expected_attach_type(program),
        }
    }
}

fn text(name: &OsStr) -> String {
    name.to_string_lossy().into_owned()
}
