package evict

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

const (
	// ownersKey is the folder of the records with the owners of content.
	ownersKey = "_owners"
	// ownerParts is the number of these records. With 9 bytes for each blob, one of them
	// would be too large for a record in a store of a million blobs, and would be written
	// as a whole for each new one.
	ownerParts = 64
	// ownersFormat is that of owners as they are written down. A version that writes another
	// one counts it up, and this version takes that for content without owners.
	ownersFormat = 1
	// ownedEntry is how many bytes a blob takes there: the start of its key, and the number
	// of its owner in the heading.
	ownedEntry = 8 + 1
	// maxOwnerName bounds the name of an owner, the key of a repository block, and maxHeading
	// the heading with all of them.
	maxOwnerName = 255
	maxHeading   = maxOwners * (maxOwnerName + 8)
	// ownersInterval is how often owners are written down: as often as times of last use.
	ownersInterval = touchInterval
)

// ownerPart returns the number of the record in which the owner of a blob is.
func ownerPart(k key) int { return int(k[0]) * ownerParts / 256 }

// ownersHeading is the first line of owners as they are written down. A blob has the number
// of a name in it.
type ownersHeading struct {
	Format int      `json:"format"`
	Owners []string `json:"owners"`
}

// owned says which owners blobs have, as it is written down. The entries are sorted, and
// searched as they are. The zero value has none.
type owned []ownedPart

// ownedPart is one document of owners.
type ownedPart struct {
	numbers [maxOwners]owner // in this process, by those in the document
	entries sortedEntries
}

// of returns the owner of a blob.
func (o owned) of(k key) owner {
	if len(o) == 0 {
		return unowned
	}
	part := &o[ownerPart(k)*len(o)/ownerParts]
	wanted := short(k)
	at := sort.Search(part.entries.Len(), func(i int) bool { return part.entries.key(i) >= wanted })
	if at == part.entries.Len() || part.entries.key(at) != wanted {
		return unowned
	}
	return part.numbers[part.entries[at*ownedEntry+8]]
}

// sortedEntries are entries of owners.
type sortedEntries []byte

func (e sortedEntries) key(i int) uint64   { return binary.BigEndian.Uint64(e[i*ownedEntry:]) }
func (e sortedEntries) Len() int           { return len(e) / ownedEntry }
func (e sortedEntries) Less(i, j int) bool { return e.key(i) < e.key(j) }
func (e sortedEntries) Swap(i, j int) {
	var entry [ownedEntry]byte
	copy(entry[:], e[i*ownedEntry:])
	copy(e[i*ownedEntry:(i+1)*ownedEntry], e[j*ownedEntry:])
	copy(e[j*ownedEntry:(j+1)*ownedEntry], entry[:])
}

// ReadOwners returns the owner of each blob as a store has written it down, for commands beside a
// mirror; "" if it is not known. Content that came in within the last minutes has none yet. It returns
// an error if the owners cannot be read, or are those of a later version. Damaged ones are none.
func ReadOwners(ctx context.Context, records storage.Records) (func(digest.Digest) string, error) {
	names, entries := make([][]string, ownerParts), make([]sortedEntries, ownerParts)
	for part := range ownerParts {
		document, err := records.Get(ctx, recordOfPart(part))
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err == nil {
			names[part], entries[part], err = parseOwners(document)
		}
		isDamaged := errors.Is(err, errOwners) && !errors.Is(err, errLaterOwners) // as for a mirror, they are none
		if err != nil && !isDamaged {
			return nil, fmt.Errorf("%s: %w", recordOfPart(part), err)
		}
	}
	return func(dgst digest.Digest) string {
		k := keyOf(dgst)
		part, wanted := ownerPart(k), short(k)
		of := entries[part]
		at := sort.Search(of.Len(), func(i int) bool { return of.key(i) >= wanted })
		if at == of.Len() || of.key(at) != wanted {
			return ""
		}
		number := int(of[at*ownedEntry+8])
		if number >= len(names[part]) {
			return ""
		}
		return ownerName(names[part][number])
	}, nil
}

// ownersDocument makes a document of owners.
type ownersDocument struct {
	names   []string
	numbers map[string]byte
	entries sortedEntries
}

// add adds a blob. Names beyond the number of owners are left out.
func (d *ownersDocument) add(k uint64, name string) {
	number, known := d.numbers[name]
	if !known {
		if len(d.names) == maxOwners || len(name) > maxOwnerName {
			return
		}
		if d.numbers == nil {
			d.numbers = make(map[string]byte)
		}
		number = byte(len(d.names))
		d.names, d.numbers[name] = append(d.names, name), number
	}
	d.entries = append(binary.BigEndian.AppendUint64(d.entries, k), number)
}

// bytes returns the document.
func (d *ownersDocument) bytes() []byte {
	sort.Sort(d.entries)
	heading, err := json.Marshal(ownersHeading{Format: ownersFormat, Owners: d.names})
	if err != nil {
		panic(err) // cannot be: it has texts and a number only
	}
	return slices.Concat(heading, []byte("\n"), d.entries)
}

var (
	errOwners      = errors.New("the owners of content are in an unknown format")
	errLaterOwners = fmt.Errorf("%w: a later version of Weir wrote them", errOwners)
)

// parseOwners returns the names and the entries of a document of owners. A forged one gives
// content to another owner, or to none.
func parseOwners(document []byte) (names []string, entries sortedEntries, err error) {
	first, rest, _ := bytes.Cut(document, []byte("\n"))
	var heading ownersHeading
	if len(first) > maxHeading {
		return nil, nil, fmt.Errorf("%w: the heading is too long", errOwners)
	}
	err = json.Unmarshal(first, &heading)
	if err == nil && heading.Format > ownersFormat {
		return nil, nil, errLaterOwners
	}
	if err != nil || heading.Format != ownersFormat || len(heading.Owners) > maxOwners {
		return nil, nil, fmt.Errorf("%w: format %d", errOwners, heading.Format)
	}
	return heading.Owners, sortedEntries(rest[:len(rest)/ownedEntry*ownedEntry]), nil
}

// ownedPart returns a document as it is searched. The caller does not hold the mutex.
func (i *inventory) ownedPart(document []byte) (ownedPart, error) {
	names, entries, err := parseOwners(document)
	if err != nil {
		return ownedPart{}, err
	}
	part := ownedPart{entries: entries}
	i.mu.Lock()
	defer i.mu.Unlock()
	for number, name := range names {
		if len(name) <= maxOwnerName {
			part.numbers[number] = i.owner(name)
		}
	}
	return part, nil
}

// collectOwners adds all content that has an owner to the document that wanted returns for
// it; nil: to none.
func (i *inventory) collectOwners(wanted func(key) *ownersDocument) {
	i.mu.Lock()
	names := make(map[owner]string, len(i.owners))
	for name, o := range i.owners {
		names[o] = name
	}
	slots := i.index.lru.slots
	i.mu.Unlock()
	for s := slot(0); s < slots; {
		i.mu.Lock()
		for end := min(s+batch, slots); s < end; s++ {
			e := i.index.lru.at(s)
			if e.owner == unowned || e.phase != idle && e.phase != pinned && e.phase != deleting {
				continue
			}
			if d := wanted(e.key); d != nil && names[e.owner] != "" {
				d.add(short(e.key), names[e.owner])
			}
		}
		i.mu.Unlock()
	}
}

// owners keeps the owners of content in records. It is one goroutine.
type owners struct {
	inventory *inventory
	records   storage.Records // nil: they are not kept
	logger    *slog.Logger
}

// run writes down new owners until its context ends.
func (w *owners) run(ctx context.Context) {
	if w.records == nil {
		return
	}
	ticker := time.NewTicker(ownersInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if err := w.write(ctx); err != nil && ctx.Err() == nil {
				w.logger.Warn("cannot record which repository block brought content in. After a restart it may not count towards any block's limit", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

func recordOfPart(part int) string { return fmt.Sprintf("%s/%02x", ownersKey, part) }

// read returns the owners that were written down. Those that cannot be read are none: no
// pull fails for that.
func (w *owners) read(ctx context.Context) owned {
	if w.records == nil {
		return nil
	}
	known := make(owned, ownerParts)
	for part := range known {
		document, err := w.records.Get(ctx, recordOfPart(part))
		if err == nil {
			known[part], err = w.inventory.ownedPart(document)
		}
		if err != nil && !errors.Is(err, storage.ErrNotExist) && ctx.Err() == nil {
			w.logger.Warn("cannot read which repository block brought content in, so it does not count towards any block's limit", "record", recordOfPart(part), "error", err)
		}
	}
	return known
}

// write writes the parts that have changed since the last time. A part that cannot be written
// is tried again the next time.
func (w *owners) write(ctx context.Context) error {
	if w.records == nil {
		return nil
	}
	i := w.inventory
	documents := make(map[int]*ownersDocument)
	i.mu.Lock()
	complete := i.ready
	for part, changed := range i.unwritten {
		if changed {
			documents[part] = new(ownersDocument)
		}
	}
	i.unwritten = [ownerParts]bool{}
	i.mu.Unlock()
	if len(documents) == 0 {
		return nil
	}
	i.collectOwners(func(k key) *ownersDocument { return documents[ownerPart(k)] })
	var failure error
	for _, part := range slices.Sorted(maps.Keys(documents)) {
		err := w.writePart(ctx, part, documents[part], complete)
		if err != nil {
			failure = cmp.Or(failure, err)
			i.mu.Lock()
			i.unwritten[part] = true
			i.mu.Unlock()
		}
	}
	return failure
}

// writePart writes one part. While the index is not complete, content that is not in it keeps
// the owner that was written down before.
func (w *owners) writePart(ctx context.Context, part int, d *ownersDocument, complete bool) error {
	if !complete {
		before, err := w.records.Get(ctx, recordOfPart(part))
		if err != nil && !errors.Is(err, storage.ErrNotExist) {
			return err
		}
		d.keep(before)
	}
	return w.records.Put(ctx, recordOfPart(part), d.bytes())
}

// keep adds the blobs of an earlier document that are not in this one.
func (d *ownersDocument) keep(before []byte) {
	names, entries, err := parseOwners(before)
	if err != nil { // there is none, or it was damaged
		return
	}
	have := make(map[uint64]bool, d.entries.Len())
	for at := range d.entries.Len() {
		have[d.entries.key(at)] = true
	}
	for at := range entries.Len() {
		number := int(entries[at*ownedEntry+8])
		if k := entries.key(at); number < len(names) && !have[k] {
			d.add(k, names[number])
		}
	}
}
