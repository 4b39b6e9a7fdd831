package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/internal/bounded"
	"github.com/weirhq/weir/internal/keylock"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/storage"
)

// table is one sort of record, behind a bounded memory of values.
type table[T any] struct {
	records storage.Records
	valid   func(key string, value T) error
	// size, if set, returns the bytes of a value's strings. Such a value has no other part
	// without a fixed size once trim, if set, has removed what is not recorded.
	size func(*T) int
	trim func(*T)
	// skipWrite, if set, reports whether the stored record is close enough to a
	// new value that only the memory needs the value.
	skipWrite func(record, value T) bool
	// shared is set if others change the records. The memory then holds only values that
	// were not worth a write, each until its record has changed.
	shared bool
	// touch, if set, notes the use of a record. A use from memory is noted each few hours.
	touch    func(ctx context.Context, key string, used time.Time) error
	logger   *slog.Logger
	memory   *bounded.Cache[string, cached[T]] // nil: none
	reported *lru.Cache[string, struct{}]      // keys of unreadable records that have been logged

	// A key is locked while its record and its place in memory change, or while
	// one is copied into the other, so that they agree. Values in memory are
	// read without the lock.
	keys keylock.Map[string]
}

// cached is a value in memory. Nearly all of them are those of their records, and then take the
// memory of one value.
type cached[T any] struct {
	value    T
	older    *T   // the value that was last written; nil: it is value
	recorded bool // false: the record could not be written
	touched  time.Time
}

// written returns the value that was last written.
func (c *cached[T]) written() *T {
	if c.older != nil {
		return c.older
	}
	return &c.value
}

// with returns c with a later value that is not worth a write.
func (c cached[T]) with(value T) cached[T] {
	if c.older == nil {
		older := c.value
		c.older = &older
	}
	c.value = value
	return c
}

// maxReported bounds the memory of unreadable records that have been logged.
// After a thousand lines, a record may be logged once more.
const maxReported = 1024

// maxEntry is the longest record with a descriptor, in bytes. Tags and links have about
// 300, and below 1 KiB with the longest names.
const maxEntry = 4 << 10

func newTable[T any](records storage.Records, valid func(string, T) error, logger *slog.Logger) *table[T] {
	reported, err := lru.New[string, struct{}](maxReported)
	if err != nil {
		panic(err) // cannot be: the size is positive
	}
	return &table[T]{records: records, valid: valid, logger: logger, reported: reported}
}

// remembering gives a table a memory of a number of values, which take at most max bytes
// together. Upstreams choose their media types. Size returns the bytes of a value's strings.
func (t *table[T]) remembering(number, max int, size func(*T) int) {
	t.size = size
	t.memory = bounded.New(number, max, func(key string, c cached[T]) int {
		sum := len(key) + size(&c.value)
		if c.older != nil {
			sum += size(c.older)
		}
		return sum
	})
}

func (t *table[T]) get(ctx context.Context, key string) (T, error) {
	known, ok := t.recall(key)
	if ok && !t.isDue(known) {
		return known.value, nil
	}
	defer t.keys.Lock(key)()
	known, err := t.load(ctx, key)
	if err == nil && t.isDue(known) {
		t.use(ctx, key, known)
	}
	return known.value, err
}

// isDue reports whether the use of a record is to be noted.
func (t *table[T]) isDue(known cached[T]) bool {
	return t.touch != nil && known.recorded && time.Since(known.touched) > touchPause
}

// use notes the use of a record. The caller holds the key's lock.
func (t *table[T]) use(ctx context.Context, key string, known cached[T]) {
	known.touched = time.Now()
	if t.memory != nil {
		t.memory.Add(key, known)
	}
	// Without the note the record may be removed early, which costs a request upstream.
	if err := t.touch(ctx, key, known.touched); err != nil {
		t.logger.Debug("cannot record the use of a record", "key", key, "error", err)
	}
}

// put writes a value, and remembers it even if that fails.
func (t *table[T]) put(ctx context.Context, key string, value T) error {
	if err := t.valid(key, value); err != nil {
		return err
	}
	defer t.keys.Lock(key)()
	known, ok := t.recall(key)
	if t.shared {
		var err error
		known, err = t.load(ctx, key)
		ok = err == nil
	}
	// The record keeps its old value, with which the next one is compared.
	if ok && known.recorded && t.skipWrite != nil && t.skipWrite(*known.written(), value) {
		t.memory.Add(key, known.with(value))
		return nil
	}
	return t.store(ctx, key, value)
}

// update replaces a value by change of it, or of the zero value if there is
// none. It writes nothing if both are equal.
func (t *table[T]) update(ctx context.Context, key string, change func(T) T, equal func(a, b T) bool) error {
	// Most updates change nothing, and need no lock to see that.
	if known, ok := t.recall(key); ok && known.recorded && equal(known.value, change(known.value)) {
		return nil
	}
	defer t.keys.Lock(key)()
	known, err := t.load(ctx, key)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		t.logger.Debug("replacing a record that could not be read", "key", key, "error", err)
	}
	value := change(known.value)
	if known.recorded && equal(known.value, value) {
		return nil
	}
	// Before the memory learns it: it would not be read back after a restart.
	if err := t.valid(key, value); err != nil {
		return err
	}
	return t.store(ctx, key, value)
}

// replace writes the change of a value, or of the zero value if there is none. It
// writes nothing if change reports false.
func (t *table[T]) replace(ctx context.Context, key string, change func(T) (T, bool)) error {
	defer t.keys.Lock(key)()
	known, err := t.load(ctx, key)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		t.logger.Debug("replacing a record that could not be read", "key", key, "error", err)
	}
	value, changed := change(known.value)
	if !changed {
		return nil
	}
	if err := t.valid(key, value); err != nil {
		return err
	}
	return t.store(ctx, key, value)
}

func (t *table[T]) delete(ctx context.Context, key string) error {
	defer t.keys.Lock(key)()
	// Memory first: if the deletion fails, the next get reads the record again.
	known := t.memory != nil && t.memory.Remove(key)
	err := t.records.Delete(ctx, key)
	if known && errors.Is(err, storage.ErrNotExist) {
		return nil // it was in memory only
	}
	return err
}

func (t *table[T]) recall(key string) (cached[T], bool) {
	if t.memory == nil || t.shared {
		return cached[T]{}, false
	}
	return t.memory.Get(key)
}

// overlaid returns the value that was not worth a write since a shared record was written,
// or that of the record.
func (t *table[T]) overlaid(key string, record T) cached[T] {
	if known, ok := t.memory.Get(key); ok {
		if reflect.DeepEqual(*known.written(), record) {
			return known
		}
		t.memory.Remove(key)
	}
	return cached[T]{value: record, recorded: true}
}

// load returns the value from memory, or from its record. The caller holds the
// key's lock.
func (t *table[T]) load(ctx context.Context, key string) (cached[T], error) {
	// Another caller may have loaded it while this one waited for the lock.
	if known, ok := t.recall(key); ok {
		return known, nil
	}
	document, err := t.records.Get(ctx, key)
	if err != nil {
		return cached[T]{}, err
	}
	value, err := t.decode(key, document)
	if err != nil {
		// Each pull may read the record: one log line for it is enough.
		if seen, _ := t.reported.ContainsOrAdd(key, struct{}{}); !seen {
			t.logger.Warn("ignoring an unreadable record", "key", key, "error", err)
		}
		return cached[T]{}, fmt.Errorf("%w: record %q", storage.ErrNotExist, key)
	}
	if t.shared {
		return t.overlaid(key, value), nil
	}
	return t.remember(cached[T]{value: value, recorded: true}, key), nil
}

// decode reads a record. A local user may have replaced it, so its length and shape are
// looked at first: decoded, a hostile text takes a hundred times its own memory.
func (t *table[T]) decode(key string, document []byte) (value T, err error) {
	if t.size != nil && len(document) > maxEntry {
		return value, fmt.Errorf("%w: it has %d bytes", storage.ErrInvalidRecord, len(document))
	}
	if err := oci.CheckShape(document); err != nil {
		return value, fmt.Errorf("%w: %w", storage.ErrInvalidRecord, err)
	}
	if err := json.Unmarshal(document, &value); err != nil {
		return value, err
	}
	if t.trim != nil {
		t.trim(&value) // the memory no longer counts
	}
	return value, t.valid(key, value)
}

// store writes a value and remembers it. The caller holds the key's lock.
func (t *table[T]) store(ctx context.Context, key string, value T) error {
	document, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("%w %q: %w", storage.ErrInvalidRecord, key, err)
	}
	err = t.records.Put(ctx, key, document)
	t.remember(cached[T]{value: value, recorded: err == nil, touched: time.Now()}, key)
	return err
}

func (t *table[T]) remember(known cached[T], key string) cached[T] {
	if t.memory != nil && !t.shared {
		t.memory.Add(key, known)
	}
	return known
}

// core returns the part of a descriptor that is recorded.
func core(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

func sameCore(a, b ocispec.Descriptor) bool {
	return a.MediaType == b.MediaType && a.Digest == b.Digest && a.Size == b.Size
}

// recentlyChecked reports whether a record differs from a tag only by less than
// a minute in the time of the check. That is not worth a write: after a restart,
// an upstream is asked about the tag a minute early at most. A record with a later
// time was written by a clock that ran ahead, and has to be replaced.
func recentlyChecked(record, tag Tag) bool {
	passed := tag.Checked.Sub(record.Checked)
	return sameCore(record.Descriptor, tag.Descriptor) && record.Fallback == tag.Fallback && passed >= 0 && passed < time.Minute
}

// recentlyProven reports whether a link differs from a record only by less than a minute
// in the time of the proof.
func recentlyProven(record, l link) bool {
	passed := l.Proven.Sub(record.Proven)
	return record.content == l.content && passed >= 0 && passed < time.Minute
}

func validTag(_ string, tag Tag) error { return validDescriptor(tag.Descriptor) }

func validLink(key string, link link) error {
	if dgst := digestBelow(linksSegment, key); link.Digest != dgst {
		return fmt.Errorf("%w: a link of %s to %q", storage.ErrInvalidRecord, dgst, string(link.Digest))
	}
	return validDescriptor(link.descriptor())
}

func validDescriptor(d ocispec.Descriptor) error {
	if d.Size < 0 {
		return fmt.Errorf("%w: %s with a size of %d bytes", storage.ErrInvalidRecord, d.Digest, d.Size)
	}
	// It becomes the Content-Type of answers, and is kept in memory.
	if d.MediaType != "" && !oci.IsServed(d.MediaType) {
		return fmt.Errorf("%w: %s with a media type that cannot be served", storage.ErrInvalidRecord, d.Digest)
	}
	return storage.ValidateDigest(d.Digest)
}

func validDocument(_ string, document Document) error {
	if document.Checked.IsZero() {
		return fmt.Errorf("%w: a document without the time of its check", storage.ErrInvalidRecord)
	}
	return nil
}
