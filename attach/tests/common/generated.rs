//! Functions by chance: assembly of every shape that compilers make and of
//! some that only people write, which always end, and whose results depend on
//! nothing but the registers that they are called with.
//!
//! `generated_call(function, registers)` calls one with all registers set, and
//! gives all that it left; `generated_pointers` are their addresses.

use std::fmt::Write;

/// Registers that functions work with; r11 is for addresses in between.
const REGISTERS: [[&str; 3]; 8] = [
    ["rax", "eax", "al"],
    ["rdx", "edx", "dl"],
    ["rsi", "esi", "sil"],
    ["rdi", "edi", "dil"],
    ["r8", "r8d", "r8b"],
    ["r9", "r9d", "r9b"],
    ["r10", "r10d", "r10b"],
    ["rbx", "ebx", "bl"],
];
const CONDITIONS: [&str; 12] = [
    "o", "b", "ae", "e", "ne", "be", "a", "s", "p", "l", "ge", "g",
];

/// Pseudo-random numbers (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// Assembly of `count` functions `generated_N` and of `generated_call`.
pub fn assembly(seed: u64, count: usize) -> String {
    let mut text = String::from(CALL);
    let mut writer = Writer {
        chance: Chance(seed),
        text: &mut text,
        labels: 0,
        leaves: Vec::new(),
        middles: Vec::new(),
    };
    for n in 0..count {
        writer.function(n);
    }
    writer.finish(count);
    text
}

/// A line of assembly.
macro_rules! emit {
    ($writer:expr, $($format:tt)*) => {{
        let line = format!($($format)*);
        $writer.line(line);
    }};
}

struct Writer<'a> {
    chance: Chance,
    text: &'a mut String,
    labels: usize,
    /// Functions that call no other.
    leaves: Vec<usize>,
    /// Labels inside functions, from which on these need nothing of before.
    middles: Vec<String>,
}

impl Writer<'_> {
    fn line(&mut self, line: impl AsRef<str>) {
        let _ = writeln!(self.text, "    {}", line.as_ref());
    }

    fn label(&mut self) -> String {
        self.labels += 1;
        format!(".Lg{}", self.labels)
    }

    fn put(&mut self, label: &str) {
        let _ = writeln!(self.text, "{label}:");
    }

    fn reg(&mut self) -> &'static str {
        self.chance.one_of(&REGISTERS)[0]
    }

    fn any_size(&mut self) -> (&'static str, &'static str) {
        let size = self.chance.below(3);
        let (a, b) = (
            self.chance.one_of(&REGISTERS),
            self.chance.one_of(&REGISTERS),
        );
        (a[size], b[size])
    }

    fn function(&mut self, n: usize) {
        match self.chance.below(4) {
            0 => {}
            1 => self.line(".p2align 4"),
            2 => self.line(".p2align 4, 0xcc"),
            _ => self.line(".p2align 3"),
        }
        emit!(self, ".type generated_{n}, @function");
        self.put(&format!("generated_{n}"));
        match self.chance.below(12) {
            0 => self.tiny(n),
            1 => self.loops_to_its_entry(n),
            _ => self.ordinary(n),
        }
        emit!(self, ".size generated_{n}, . - generated_{n}");
    }

    /// As short as functions are.
    fn tiny(&mut self, n: usize) {
        self.leaves.push(n);
        let reg = self.reg();
        let other = self.leaves[self.chance.below(self.leaves.len())];
        match self.chance.below(8) {
            0 => {}
            1 => self.line("rep"),
            2 => self.line("nop"),
            3 => self.line("endbr64"),
            4 => emit!(self, "inc {reg}"),
            5 => self.line("xor eax, eax"),
            6 if other != n => return emit!(self, "jmp generated_{other}"),
            _ => self.line("lea rax, [rdi + rsi]"),
        }
        self.line("ret");
    }

    fn loops_to_its_entry(&mut self, n: usize) {
        self.leaves.push(n);
        match self.chance.below(3) {
            0 => self.line("shr rdi, 9"),
            1 => self.line("shr edi, 7"),
            _ => self.line("shr rdi, 13\n    lea rax, [rax + rax*2 + 1]\n    test rdi, rdi"),
        }
        emit!(self, "jnz generated_{n}");
        self.statement(false);
        self.line("ret");
    }

    fn ordinary(&mut self, n: usize) {
        let is_leaf = self.chance.below(3) != 0;
        if self.chance.below(4) == 0 {
            self.line("endbr64");
        }
        let mut undo = Vec::new();
        let has_frame = self.chance.below(4) == 0;
        if has_frame {
            self.line("push rbp\n    mov rbp, rsp");
            undo.push("leave".to_owned());
        }
        for reg in ["rbx", "r12", "r13", "r14", "r15"] {
            if self.chance.below(3) == 0 && !has_frame {
                emit!(self, "push {reg}");
                undo.push(format!("pop {reg}"));
            }
        }
        if !is_leaf || self.chance.below(4) == 0 {
            // Flags of these tell where the stack is.
            let bytes = self.chance.one_of(&[8, 24, 40, 256]);
            emit!(self, "sub rsp, {bytes}\n    cmp edx, esi");
            if !has_frame {
                let end = ["add rsp, N\n    test eax, eax", "lea rsp, [rsp + N]"];
                let end = self.chance.one_of(&end);
                undo.push(end.replace('N', &bytes.to_string()));
            }
        }
        let mut own_middle = None;
        if undo.is_empty() && is_leaf && self.chance.below(3) == 0 {
            let middle = self.label();
            self.statement(false);
            self.put(&middle);
            own_middle = Some(middle);
        }
        for _ in 0..self.chance.below(10) {
            self.statement(!is_leaf);
        }
        let early = self.chance.below(5) == 0;
        for undone in undo.iter().rev() {
            self.line(undone);
        }
        if early && !self.leaves.is_empty() {
            // A call that is the last thing, and a jump into another's middle.
            let leaf = self.leaves[self.chance.below(self.leaves.len())];
            let condition = self.chance.one_of(&CONDITIONS);
            emit!(self, "j{condition} generated_{leaf}");
            if let Some(middle) = self.middles.last().cloned() {
                emit!(self, "jmp {middle}");
            }
        }
        self.middles.extend(own_middle);
        if is_leaf {
            self.leaves.push(n);
        }
        let end = if self.chance.below(20) == 0 {
            "rep ret"
        } else {
            "ret"
        };
        self.line(end);
    }

    /// One thing that a function does; `may_call` below the red zone.
    fn statement(&mut self, may_call: bool) {
        let (a, b) = (self.reg(), self.reg());
        match self.chance.below(30) {
            0..=5 => self.arithmetic(),
            6 => emit!(self, "lea {a}, [{b} + rdi*{} + {}]", [1, 2, 4, 8][self.chance.below(4)], self.chance.below(1000)),
            7 => emit!(self, "mov {a}, {}", self.chance.next() as i32),
            8 => emit!(self, "movabs {a}, {}", self.chance.next()),
            9 => emit!(self, "mov {a}, qword ptr [rip + generated_words + {}]", 8 * self.chance.below(16)),
            10 => emit!(self, "cmp {a}, qword ptr [rip + generated_words + {}]", 8 * self.chance.below(16)),
            11 => emit!(self, "lea {a}, [rip + generated_words]\n    mov {a}, [{a} + 24]"),
            12 => emit!(self, "push {a}\n    pop {b}"),
            13 if !may_call => emit!(self, "mov [rsp - 24], {a}\n    add [rsp - 24], {b}\n    mov {b}, [rsp - 24]"),
            14 => emit!(self, "mov {a}, fs:[0]\n    xor {a}, fs:[0]"),
            15 => self.line("pushfq\n    pop rax\n    and eax, 0x8d5"),
            16 => self.line("lahf\n    inc rdx\n    sahf"),
            17 => self.line("mov r11d, 6\n    movq xmm0, rax\n    paddq xmm0, xmm1\n    movq rax, xmm0"),
            18 => self.forward_jump(may_call),
            19 => self.forward_jump(may_call),
            20 => self.counted_loop(),
            21 => self.table(),
            22 => self.line("sub rsp, 64\n    mov rdi, rsp\n    mov ecx, 8\n    cld\n    rep stosb\n    pop rax\n    lea rsp, [rsp + 56]\n    xor edi, edi"),
            // Past a prefix, as libraries skip `lock`.
            23 => {
                let skip = self.label();
                emit!(self, "mov [rsp - 40], {a}\n    cmp {a}, {b}\n    je {skip} + 1");
                self.put(&skip);
                emit!(self, "lock xadd [rsp - 40], {b}");
            }
            24 => {
                let nop = [".byte 0x66, 0x90", "nop dword ptr [rax]", "nop dword ptr [rax + rax + 0]", "nop", "pause"];
                let nop = self.chance.one_of(&nop);
                self.line(nop);
            }
            25 => self.line("cqo\n    mov ecx, 77\n    and rdx, 15\n    div rcx"),
            26 => emit!(self, "bt {a}, 5\n    set{} al\n    cmov{} {a}, {b}", self.chance.one_of(&CONDITIONS), self.chance.one_of(&CONDITIONS)),
            27..=29 if may_call => self.call(),
            _ => self.arithmetic(),
        }
    }

    fn arithmetic(&mut self) {
        let (a, b) = self.any_size();
        let reg = self.reg();
        let line = match self.chance.below(8) {
            0..=3 => {
                let names = [
                    "add", "sub", "xor", "and", "or", "adc", "sbb", "mov", "test", "cmp", "xchg",
                ];
                format!("{} {a}, {b}", self.chance.one_of(&names))
            }
            4 => {
                let names = ["inc", "dec", "neg", "not"];
                format!("{} {a}", self.chance.one_of(&names))
            }
            5 => {
                let names = ["shl", "shr", "sar", "rol", "ror", "rcl"];
                format!(
                    "{} {a}, {}",
                    self.chance.one_of(&names),
                    1 + self.chance.below(7)
                )
            }
            6 => {
                let names = ["add", "sub", "xor", "cmp", "imul"];
                let name = self.chance.one_of(&names);
                let number = self.chance.one_of(&[1, 100, 12_345_678, -1_i64]);
                match name {
                    "imul" => format!("imul {reg}, {reg}, {number}"),
                    name => format!("{name} {reg}, {number}"),
                }
            }
            _ => {
                let names = ["bswap", "mul", "imul"];
                format!("{} {reg}", self.chance.one_of(&names))
            }
        };
        self.line(line);
    }

    fn forward_jump(&mut self, may_call: bool) {
        let behind = self.label();
        match self.chance.below(6) {
            0 => emit!(self, "jmp {behind}"),
            1 => emit!(self, "mov ecx, eax\n    and ecx, 1\n    jrcxz {behind}"),
            2 => emit!(self, "lea r11, [rip + {behind}]\n    jmp r11"),
            _ => {
                let condition = self.chance.one_of(&CONDITIONS);
                emit!(self, "j{condition} {behind}");
            }
        }
        for _ in 0..self.chance.below(4) {
            // Without labels that are jumped to from here only by chance.
            let (a, b) = (self.reg(), self.reg());
            match self.chance.below(3) {
                0 if may_call => self.call(),
                1 => emit!(self, "add {a}, {b}"),
                _ => self.arithmetic(),
            }
        }
        self.put(&behind);
        self.line("mov r11d, 1");
    }

    fn counted_loop(&mut self) {
        let again = self.label();
        let times = 1 + self.chance.below(5);
        emit!(self, "mov ecx, {times}");
        self.put(&again);
        let (a, b) = (self.reg(), self.reg());
        emit!(self, "add {a}, {b}");
        if self.chance.below(2) == 0 {
            self.arithmetic();
        }
        match self.chance.below(2) {
            0 => emit!(self, "loop {again}"),
            _ => emit!(self, "dec ecx\n    jnz {again}"),
        }
    }

    /// A switch as compilers make it.
    fn table(&mut self) {
        let (table, end) = (self.label(), self.label());
        let cases: Vec<String> = (0..4).map(|_| self.label()).collect();
        emit!(
            self,
            "and eax, 3\n    lea r11, [rip + {table}]\n    movsxd rcx, dword ptr [r11 + rax*4]\n    add rcx, r11\n    jmp rcx"
        );
        for case in &cases {
            self.put(case);
            self.arithmetic();
            if self.chance.below(2) == 0 {
                emit!(self, "jmp {end}");
            }
        }
        self.put(&end);
        self.line("mov r11d, 2\n    mov ecx, 3");
        self.line(".pushsection .rodata\n    .p2align 2");
        self.put(&table);
        for case in &cases {
            emit!(self, ".long {case} - {table}");
        }
        self.line(".popsection");
    }

    fn call(&mut self) {
        if self.leaves.is_empty() {
            return;
        }
        let leaf = self.leaves[self.chance.below(self.leaves.len())];
        match self.chance.below(4) {
            0 => emit!(self, "lea r11, [rip + generated_{leaf}]\n    call r11"),
            1 => emit!(
                self,
                "call qword ptr [rip + generated_table + {}]",
                8 * leaf
            ),
            _ => emit!(self, "call generated_{leaf}"),
        }
        self.line("mov r11d, 3");
    }

    fn finish(&mut self, count: usize) {
        self.line(".section .rodata\n    .p2align 3");
        self.put("generated_words");
        for _ in 0..16 {
            let word = self.chance.next();
            emit!(self, ".quad {word}");
        }
        self.line(".section .data.rel.ro, \"aw\"\n    .p2align 3");
        self.line(".globl generated_pointers");
        self.put("generated_pointers");
        self.put("generated_table");
        for n in 0..count {
            emit!(self, ".quad generated_{n}");
        }
        self.line(".section .note.GNU-stack, \"\", @progbits");
    }
}

/// Calls a function with registers from 20 words, and stores what it left
/// there: rax, rcx, rdx, rbx, rsi, rdi, rbp, r8 to r15, flags, xmm0 to xmm3.
const CALL: &str = r#"
    .intel_syntax noprefix
    .text
    .globl generated_call
    .type generated_call, @function
generated_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rsi
    push rdi
    mov r11, rsi
    movq xmm0, [r11 + 128]
    movq xmm1, [r11 + 136]
    movq xmm2, [r11 + 144]
    movq xmm3, [r11 + 152]
    mov rax, [r11]
    mov rcx, [r11 + 8]
    mov rdx, [r11 + 16]
    mov rbx, [r11 + 24]
    mov rsi, [r11 + 32]
    mov rdi, [r11 + 40]
    mov rbp, [r11 + 48]
    mov r8, [r11 + 56]
    mov r9, [r11 + 64]
    mov r10, [r11 + 72]
    mov r12, [r11 + 88]
    mov r13, [r11 + 96]
    mov r14, [r11 + 104]
    mov r15, [r11 + 112]
    push qword ptr [r11 + 120]
    popfq
    mov r11d, 9
    call [rsp]
    pushfq
    push r11
    mov r11, [rsp + 24]
    mov [r11], rax
    mov [r11 + 8], rcx
    mov [r11 + 16], rdx
    mov [r11 + 24], rbx
    mov [r11 + 32], rsi
    mov [r11 + 40], rdi
    mov [r11 + 48], rbp
    mov [r11 + 56], r8
    mov [r11 + 64], r9
    mov [r11 + 72], r10
    pop rax
    mov [r11 + 80], rax
    mov [r11 + 88], r12
    mov [r11 + 96], r13
    mov [r11 + 104], r14
    mov [r11 + 112], r15
    pop rax
    and eax, 0xcd5
    mov [r11 + 120], rax
    movq [r11 + 128], xmm0
    movq [r11 + 136], xmm1
    movq [r11 + 144], xmm2
    movq [r11 + 152], xmm3
    push 2
    popfq
    pop rdi
    pop rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .size generated_call, . - generated_call
"#;
