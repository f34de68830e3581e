//! What a package says of its maps, against what its object has: how records
//! and elements are shown.

use std::rc::Rc;

use libbpf_rs::MapCore;
use loader::Loaded;
use loader::show::{Columns, Elements, Form, Members, Stacks, Steps, Table, Values};
use object::btf::{Btf, Shape};
use package::meta::{
    CustomMember, ExportConfig, FieldMap, Interpreter, MapMeta, Sample, SampleType,
};
use package::{Meta, Package};

use super::super::here::Asked;
use crate::problem::Problem;

/// How a buffer's records look.
pub enum Look {
    /// The package does not want to see them.
    Not,
    /// As one of these structures, whichever has a record's size, if that matters.
    Records(Rc<Btf>, Vec<(Table, Option<usize>)>),
    Stacks(Rc<Btf>, Columns, Members, bool),
    Bytes,
}

/// Types, and those of them that records may be of.
type Records = (Rc<Btf>, Vec<u32>);

/// Decides what is shown how.
pub struct Plan<'a> {
    meta: &'a Meta,
    /// The object's types.
    btf: Option<Rc<Btf>>,
    /// The types of records, which may lie elsewhere, and those of them that
    /// the package names.
    records: Option<Records>,
    /// The package's file.
    who: String,
}

impl Plan<'_> {
    pub fn new<'a>(
        asked: &Asked<'_>,
        package: &'a Package,
        btf: Option<Rc<Btf>>,
    ) -> Result<Plan<'a>, Problem> {
        let mut plan = Plan {
            meta: &package.meta,
            btf,
            records: None,
            who: asked.file.display().to_string(),
        };
        plan.records = plan.record_types(package, asked.args.r#type.as_deref())?;
        Ok(plan)
    }

    /// The structures that records may be of, in the package's order.
    fn record_types(
        &self,
        package: &Package,
        chosen: Option<&str>,
    ) -> Result<Option<Records>, Problem> {
        let own = package
            .export_btf()
            .map_err(|error| self.wrong(&error.to_string()))?;
        let btf = match own {
            Some(bytes) => Some(Rc::new(
                Btf::parse(&bytes).map_err(|error| self.wrong(&error.text))?,
            )),
            None => self.btf.clone(),
        };
        let Some(btf) = btf else {
            return Ok(None);
        };
        let structure = |shape: &Shape| matches!(shape, Shape::Struct { .. } | Shape::Union { .. });
        let mut types = Vec::new();
        if let Some(name) = chosen {
            let found = btf.find(name, structure);
            types.push(found.ok_or_else(|| self.unknown(name))?);
        } else {
            for exported in &self.meta.export_types {
                let is_it = btf.name(exported.type_id) == exported.name;
                let found = is_it.then_some(exported.type_id);
                let found = found.or_else(|| btf.find(&exported.name, structure));
                types.push(found.ok_or_else(|| self.unknown(&exported.name))?);
            }
        }
        Ok(Some((btf, types)))
    }

    fn unknown(&self, name: &str) -> Problem {
        self.wrong(&format!(
            "records are of struct {name}, which its object does not have"
        ))
    }

    fn wrong(&self, what: &str) -> Problem {
        Problem::new(&self.who, what, "build it again")
    }

    /// Whether a package whose maps say by themselves what is shown of them
    /// wants nothing of this one.
    pub fn is_left_out(&self, map: &MapMeta) -> bool {
        self.meta.enable_multiple_export_types && map.export_config == ExportConfig::NoExport
    }

    /// How records of a buffer look.
    pub fn look(&self, map: &str) -> Result<Look, Problem> {
        let nothing = MapMeta::default();
        let maps = &self.meta.bpf_skel.maps;
        let said = match maps.iter().find(|said| said.name == map) {
            Some(said) => said,
            None if maps.is_empty() => &nothing,
            None => return Ok(Look::Not),
        };
        if self.is_left_out(said) {
            return Ok(Look::Not);
        }
        let Some((btf, types)) = &self.records else {
            return Ok(Look::Bytes);
        };
        let columns = match &said.export_config {
            ExportConfig::BtfTypeId(ty) if self.meta.enable_multiple_export_types => {
                vec![self.known(btf, map, *ty)?]
            }
            ExportConfig::CustomMembers(members) if self.meta.enable_multiple_export_types => {
                vec![(self.custom(btf, members)?, None)]
            }
            _ => types
                .iter()
                .map(|&ty| self.known(btf, map, ty))
                .collect::<Result<_, _>>()?,
        };
        let btf = Rc::clone(btf);
        match (&said.intepreter, columns) {
            (_, columns) if columns.is_empty() => Ok(Look::Records(btf, Vec::new())),
            (Interpreter::DefaultStruct, columns) => {
                let table = |(columns, size)| (Table::of(columns), size);
                Ok(Look::Records(btf, columns.into_iter().map(table).collect()))
            }
            (
                Interpreter::StackTrace {
                    field_map,
                    with_symbols,
                },
                mut columns,
            ) => {
                let (columns, _) = columns.swap_remove(0);
                let members = members(field_map);
                // What is missing in zeros is missing in every record.
                let zeros = columns.json(values(&btf), &[]);
                Stacks::of(&zeros, &members)
                    .map_err(|what| self.wrong(&format!("{map}: {what}")))?;
                Ok(Look::Stacks(btf, columns, members, *with_symbols))
            }
        }
    }

    /// The columns of a type, and its size.
    fn known(&self, btf: &Btf, map: &str, ty: u32) -> Result<(Columns, Option<usize>), Problem> {
        match btf.size(ty) {
            Some(size) => Ok((Columns::of(btf, ty), Some(size as usize))),
            None => Err(self.wrong(&format!(
                "shows {map} as of type {ty}, which its object does not have"
            ))),
        }
    }

    fn custom(&self, btf: &Btf, members: &[CustomMember]) -> Result<Columns, Problem> {
        let part = |member: &CustomMember| (member.name.clone(), member.offset, member.btf_type_id);
        Columns::custom(btf, members.iter().map(part).collect())
            .map_err(|what| self.wrong(&format!("member {what}")))
    }

    /// How elements of a sampled map are shown.
    pub fn elements(
        &self,
        loaded: &Loaded,
        map: &MapMeta,
        sample: &Sample,
    ) -> Result<Elements, Problem> {
        let found = loaded.map(&map.name).ok_or_else(|| {
            self.wrong(&format!(
                "samples the map {}, which its object does not have",
                map.name
            ))
        })?;
        let untyped = || {
            let what = "is to be shown, but the object does not say of what types it is";
            Problem::new(
                &map.name,
                what,
                "define it with __type(key, …) and __type(value, …)",
            )
        };
        let btf = self.btf.as_ref().ok_or_else(untyped)?;
        let info = found.info().map_err(|_| untyped())?;
        let (key, value) = (info.info.btf_key_type_id, info.info.btf_value_type_id);
        if btf.size(key).is_none() {
            return Err(untyped());
        }
        let value = match &map.export_config {
            ExportConfig::BtfTypeId(ty) => self.known(btf, &map.name, *ty)?.0,
            ExportConfig::CustomMembers(members) => self.custom(btf, members)?,
            _ if btf.size(value).is_none() => return Err(untyped()),
            _ => Columns::of(btf, value),
        };
        let form = match sample.ty {
            SampleType::DefaultKv => Form::KeyValue,
            SampleType::Log2Hist => Form::Slots(Steps::Log2),
            SampleType::LinearHist => Form::Slots(Steps::Linear {
                base: sample.base.unwrap_or(0),
                step: sample.step.unwrap_or(1),
            }),
        };
        Ok(Elements::new(
            Columns::of(btf, key),
            value,
            form,
            &sample.unit,
        ))
    }
}

fn members(names: &FieldMap) -> Members {
    let own = |name: &Option<String>, usual: &str| name.clone().unwrap_or_else(|| usual.to_owned());
    Members {
        pid: own(&names.pid, "pid"),
        cpu_id: own(&names.cpu_id, "cpu_id"),
        comm: own(&names.comm, "comm"),
        kstack_sz: own(&names.kstack_sz, "kstack_sz"),
        ustack_sz: own(&names.ustack_sz, "ustack_sz"),
        kstack: own(&names.kstack, "kstack"),
        ustack: own(&names.ustack, "ustack"),
    }
}

/// Structures inside say what they are.
pub fn values(btf: &Btf) -> Values<'_> {
    Values {
        btf,
        type_names: true,
    }
}
