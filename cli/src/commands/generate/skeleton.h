static inline int NAME__create_skeleton(struct NAME *obj);
static inline const void *NAME__elf_bytes(size_t *sz);

/* Detaches its programs and takes all that it has away. */
static inline void NAME__destroy(struct NAME *obj)
{
	if (!obj)
		return;
	if (obj->skeleton)
		bpf_object__destroy_skeleton(obj->skeleton);
	free(obj);
}

static inline struct NAME *NAME__open_opts(const struct bpf_object_open_opts *opts)
{
	struct NAME *obj;
	int err;

	obj = (struct NAME *)calloc(1, sizeof(*obj));
	if (!obj) {
		errno = ENOMEM;
		return NULL;
	}
	err = NAME__create_skeleton(obj);
	if (!err)
		err = bpf_object__open_skeleton(obj->skeleton, opts);
	if (err) {
		NAME__destroy(obj);
		errno = -err;
		return NULL;
	}
	return obj;
}

/* Variables may be set from now on, those of .rodata until the load. */
static inline struct NAME *NAME__open(void)
{
	return NAME__open_opts(NULL);
}

static inline int NAME__load(struct NAME *obj)
{
	return bpf_object__load_skeleton(obj->skeleton);
}

static inline struct NAME *NAME__open_and_load(void)
{
	struct NAME *obj;
	int err;

	obj = NAME__open();
	if (!obj)
		return NULL;
	err = NAME__load(obj);
	if (err) {
		NAME__destroy(obj);
		errno = -err;
		return NULL;
	}
	return obj;
}

static inline int NAME__attach(struct NAME *obj)
{
	return bpf_object__attach_skeleton(obj->skeleton);
}

static inline void NAME__detach(struct NAME *obj)
{
	bpf_object__detach_skeleton(obj->skeleton);
}

/* Memory is not shared with programs: reads what they have left in .data and
 * .bss into this skeleton. */
static inline int NAME__read_globals(struct NAME *obj)
{
	return libbpf_wasm__copy_globals(obj->skeleton, false);
}

/* Writes .data and .bss of this skeleton to where programs see them. */
static inline int NAME__write_globals(struct NAME *obj)
{
	return libbpf_wasm__copy_globals(obj->skeleton, true);
}

