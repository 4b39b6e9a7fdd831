package s3

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"github.com/weirhq/weir/storage"
)

const recordsName = "records"

// records keeps each record in an object of its key.
type records struct{ store *Store }

// key returns the key of a record's object.
func (r *records) key(key string) (string, error) {
	if err := storage.ValidateKey(key); err != nil {
		return "", err
	}
	name := r.store.key(recordsName + "/" + escape(key))
	if len(name) > maxKey {
		return "", fmt.Errorf("%w %.100q: the key of its object has %d bytes, at most %d are allowed", storage.ErrInvalidKey, key, len(name), maxKey)
	}
	return name, nil
}

// Get reads the object.
func (r *records) Get(ctx context.Context, key string) (document []byte, err error) {
	name, err := r.key(key)
	if err != nil {
		return nil, err
	}
	s := r.store
	err = s.within(ctx, opRead, min(recordPatience, s.opts.OperationTimeout), func(ctx context.Context) error {
		stream, object, _, err := s.client.GetObject(ctx, s.opts.Bucket, name, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer stream.Close()
		if object.Size < 0 || object.Size > maxRecord {
			return fmt.Errorf("%w: a record of %d bytes", errTooLong, object.Size)
		}
		if object.Size > longRecord {
			if err := s.long.Acquire(ctx, 1); err != nil {
				return err
			}
			defer s.long.Release(1)
		}
		// Memory is for bytes that came, not for those that were announced.
		document, err = io.ReadAll(io.LimitReader(stream, object.Size))
		if err == nil && int64(len(document)) < object.Size {
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	if ReasonOf(err) == Bounds { // no record of ours; the next Put replaces it
		return nil, fmt.Errorf("%w: record %q: %w", storage.ErrUnreadable, key, err)
	}
	if err != nil {
		return nil, err
	}
	return document, nil
}

// Put writes the object.
func (r *records) Put(ctx context.Context, key string, document []byte) error {
	name, err := r.key(key)
	if err != nil {
		return err
	}
	if len(document) > maxRecord {
		return fmt.Errorf("%w: the record %q has %d bytes", storage.ErrTooLarge, key, len(document))
	}
	return r.store.putSmall(ctx, opWrite, name, document, false)
}

// PutNew writes a record if there is none, and otherwise does nothing.
func (s *Store) PutNew(ctx context.Context, key string, document []byte) error {
	name, err := s.records.key(key)
	if err != nil {
		return err
	}
	if _, err := s.head(ctx, name); err == nil || !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	err = s.putSmall(ctx, opWrite, name, document, !s.unconditional.Load())
	switch ReasonOf(err) {
	case Conflict: // another replica was faster
		return nil
	case Unsupported:
		s.unconditional.Store(true)
		return s.putSmall(ctx, opWrite, name, document, false)
	default:
		return err
	}
}

// putSmall writes an object in one request.
func (s *Store) putSmall(ctx context.Context, op operation, key string, document []byte, conditional bool) error {
	return s.call(ctx, op, func(ctx context.Context) error {
		opts := minio.PutObjectOptions{ContentType: "application/json", DisableMultipart: true}
		if conditional {
			opts.SetMatchETagExcept("*")
		}
		return s.send(ctx, key, bytes.NewReader(document), int64(len(document)), opts)
	})
}

// Delete removes the object.
func (r *records) Delete(ctx context.Context, key string) error {
	name, err := r.key(key)
	if err != nil {
		return err
	}
	return r.store.remove(ctx, name)
}

// List lists the objects and sorts their keys: not all servers sort them as S3 does.
func (r *records) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		below, most := "", maxKeys
		if prefix != "" {
			name, err := r.key(prefix)
			if err != nil {
				yield("", err)
				return
			}
			below, most = name+"/", maxKeysBelow
		}
		keys, err := sorted(r.keys(ctx, cmp.Or(below, r.store.below(recordsName))), most)
		if err != nil {
			yield("", err)
			return
		}
		for _, key := range keys {
			if ctx.Err() != nil {
				yield("", context.Cause(ctx))
				return
			}
			if !yield(key, nil) {
				return
			}
		}
	}
}

// sorted sorts keys that take at most that many bytes, with keyCost for each.
func sorted(keys iter.Seq2[string, error], most int) ([]string, error) {
	var all []string
	size := 0
	for key, err := range keys {
		if err != nil {
			return nil, err
		}
		if size += len(key) + keyCost; size > most {
			return nil, &Error{Operation: string(opList), Reason: Bounds, err: fmt.Errorf("%w: the keys of more than %d records", errTooLong, len(all))}
		}
		all = append(all, key)
	}
	slices.Sort(all)
	return all, nil
}

// RecordKeys yields the keys of all records, in the order of the server. It keeps none in
// memory.
func (s *Store) RecordKeys(ctx context.Context) iter.Seq2[string, error] {
	return s.records.keys(ctx, s.below(recordsName))
}

// keys yields the keys of the records whose objects have a prefix.
func (r *records) keys(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		root := r.store.below(recordsName)
		for object, err := range r.store.list(ctx, prefix) {
			if err != nil {
				yield("", err)
				return
			}
			if key, ok := unescape(strings.TrimPrefix(object.Key, root)); ok && storage.ValidateKey(key) == nil && !yield(key, nil) {
				return
			}
		}
	}
}

// AllRecords lists all records, sorted by their keys. The time of an entry is that of its last
// change: a bucket knows no uses of records.
func (s *Store) AllRecords(ctx context.Context) iter.Seq2[storage.RecordEntry, error] {
	return func(yield func(storage.RecordEntry, error) bool) {
		root, size := s.below(recordsName), 0
		var all []storage.RecordEntry
		for object, err := range s.list(ctx, root) {
			if err != nil {
				yield(storage.RecordEntry{}, err)
				return
			}
			key, ok := unescape(strings.TrimPrefix(object.Key, root))
			if !ok || storage.ValidateKey(key) != nil {
				continue // it is not ours
			}
			if size += len(key) + keyCost; size > maxKeys {
				yield(storage.RecordEntry{}, &Error{Operation: string(opList), Reason: Bounds, err: fmt.Errorf("%w: the keys of more than %d records", errTooLong, len(all))})
				return
			}
			all = append(all, storage.RecordEntry{Key: key, Size: object.Size, Used: s.local(object.LastModified)})
		}
		slices.SortFunc(all, func(a, b storage.RecordEntry) int { return strings.Compare(a.Key, b.Key) })
		for _, entry := range all {
			if !yield(entry, nil) {
				return
			}
		}
	}
}

// TouchRecord does nothing: a bucket knows no uses of records.
func (s *Store) TouchRecord(context.Context, string, time.Time) error { return nil }

// escape writes a record's key with characters that all servers take and that need no
// care in URLs and XML. A "!" and two digits stand for every other byte.
func escape(key string) string {
	if strings.IndexFunc(key, func(c rune) bool { return !isPlain(c) && c != '/' }) < 0 && !dotted(key) {
		return key
	}
	var b strings.Builder
	for i := range len(key) {
		if c := key[i]; isPlain(rune(c)) && c < utf8.RuneSelf && !(c == '.' && onlyDots(key, i)) || c == '/' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "!%02X", c)
		}
	}
	return b.String()
}

// dotted reports whether a segment has dots only, which a server may take for a directory.
func dotted(key string) bool {
	for segment := range strings.SplitSeq(key, "/") {
		if strings.Trim(segment, ".") == "" {
			return true
		}
	}
	return false
}

// onlyDots reports whether the segment around a byte has dots only.
func onlyDots(key string, at int) bool {
	from := strings.LastIndexByte(key[:at], '/') + 1
	segment, _, _ := strings.Cut(key[from:], "/")
	return strings.Trim(segment, ".") == ""
}

// unescape is the reverse of escape. It reports false for names that escape does not make.
func unescape(name string) (string, bool) {
	var b strings.Builder
	rest := name
	for {
		plain, after, found := strings.Cut(rest, "!")
		b.WriteString(plain)
		if !found {
			break
		}
		if len(after) < 2 {
			return "", false
		}
		c, err := hex.DecodeString(after[:2])
		if err != nil {
			return "", false
		}
		b.Write(c)
		rest = after[2:]
	}
	key := b.String()
	return key, escape(key) == name
}
