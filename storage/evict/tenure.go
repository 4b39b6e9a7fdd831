package evict

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/storage"
)

const (
	// orderIntervals is how many intervals the order is not written again. Until then the
	// notes of uses stay, so nothing is lost.
	orderIntervals = 12
	// maxMerged is how many notes of uses are read before the order is written.
	maxMerged = 1024
	// maxNotes is how many notes are looked at in one listing: another program may have made them.
	maxNotes = 16_384
	// maxUnknown is how many blobs that the index does not know are asked for in one
	// pass, asksAtOnce of them at once. The next listing finds the rest.
	maxUnknown = 4096
	asksAtOnce = 16
	// trying is the name of a note that is written and removed, to learn whether that is
	// allowed.
	trying = "try"
)

func newTenure(s *Shared) *tenure {
	t := &tenure{
		Shared: s, id: rand.Text(), inventory: newInventory(s.opts.MaxBytes),
		leaving: make(map[slot]leaving), held: make(map[slot]bool), merged: make(map[string]bool),
	}
	t.inventory.maxManifest = -1 // references are followed by the mirrors that use them
	t.scanner = &scanner{inventory: t.inventory, next: t, owners: func(context.Context) owned { return t.owned }, logger: s.opts.Logger}
	t.applyBlocks()
	return t
}

// applyBlocks puts the caps in force that were set last.
func (t *tenure) applyBlocks() {
	t.inventory.mu.Lock()
	defer t.inventory.mu.Unlock()
	t.inventory.setBlocks(*t.blocks.Load())
}

// Stat and All make a tenure the store that its index is built from.
func (t *tenure) Stat(ctx context.Context, dgst digest.Digest) (storage.Info, error) {
	return t.opts.Store.Stat(ctx, dgst)
}

// All lists the blobs with the times of their last use, as far as they are known.
func (t *tenure) All(ctx context.Context) iter.Seq2[storage.Entry, error] {
	return func(yield func(storage.Entry, error) bool) {
		now := time.Now()
		t.others = others{}
		for entry, err := range t.opts.Store.Contents(ctx, t.others.add) {
			if used := t.order.used(keyOf(entry.Digest), now); used.After(entry.Used) {
				entry.Used = used
			}
			if entry.Used.After(now) {
				entry.Used = now
			}
			if !yield(entry, err) {
				return
			}
		}
	}
}

func (o *others) add(key string, size int64) {
	if size >= 0 {
		o.records += size
		return
	}
	o.example = cmp.Or(o.example, key)
	o.foreign++
}

// work builds the index and evicts.
func (t *tenure) work(ctx context.Context) error {
	if err := t.opts.Notes.Write(ctx, trying, []byte("this may be removed\n")); err != nil {
		return fail("trying to write", err)
	}
	if err := t.opts.Notes.Remove(ctx, trying); err != nil {
		return fail("trying to delete", err)
	}
	if err := t.build(ctx); err != nil {
		return fail("listing the content", err)
	}
	for {
		err := t.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && !t.undeletable:
			t.failing.Good()
		case err == nil:
		case t.opts.Refused(err) || errors.Is(err, errLeaseLost):
			return err
		default: // the index is worth more than a lease without a failure
			t.ended(ctx, err)
		}
		select {
		case <-time.After(t.opts.Interval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// build makes the index.
func (t *tenure) build(ctx context.Context) error {
	began := time.Now()
	document, _, err := t.opts.Notes.Read(ctx, orderName, maxOrder*orderEntry)
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		// Without it content counts as used at its upload, and notes of uses say more.
		t.opts.Logger.Warn("cannot read when the content of the bucket was last used. It is evicted in the order of its upload", "error", err)
	}
	t.order = parseOrder(document)
	t.readOwners(ctx)
	defer func() { t.order, t.owned = nil, nil }()
	if err := t.scanner.load(ctx); err != nil {
		return err
	}
	t.scanned, t.ordered = began, began
	if t.others.foreign > 0 {
		t.opts.Logger.Warn("the bucket has keys of other programs. Weir does not change them, and they count towards no limit", "keys", t.others.foreign, "example", t.others.example)
	}
	t.measure()
	return nil
}

// readOwners reads the owners of the predecessor. If they cannot be read now, or are those of a
// later version, they are left to the next mirror, with all notes of owners. Damaged ones are
// replaced.
func (t *tenure) readOwners(ctx context.Context) {
	document, _, err := t.opts.Notes.Read(ctx, ownersName, maxHeading+maxOrder*ownedEntry)
	if errors.Is(err, storage.ErrNotExist) {
		return
	}
	var part ownedPart
	if err == nil {
		part, err = t.inventory.ownedPart(document)
	}
	if err == nil {
		t.owned = owned{part}
		return
	}
	t.unowning = errors.Is(err, errLaterOwners) || !errors.Is(err, errOwners) && !errors.Is(err, storage.ErrTooLarge)
	t.opts.Logger.Warn("cannot read which repository blocks brought the content of the bucket in, so it does not count towards any block's limit", "error", err)
}

// measure counts the records for the metrics.
func (t *tenure) measure() {
	i := t.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	i.index.ledger.records = t.others.records
	t.opts.Metrics.indexed(len(i.index.lru.byKey), i.index.ledger.stored+i.index.ledger.records, t.scanned, i.listBlocks())
}

// pass does all that is due.
func (t *tenure) pass(ctx context.Context) error {
	if err := t.confirm(ctx); err != nil {
		return fail("reading the plan", err)
	}
	if time.Since(t.scanned) > rescanInterval {
		began := time.Now()
		if err := t.scanner.reconcile(ctx); err != nil {
			return fail("listing the content", err)
		}
		t.scanned = began
	}
	t.applyBlocks()
	t.measure()
	t.hold()
	if err := t.remove(ctx); err != nil {
		return err
	}
	t.hold() // other mirrors may have announced content that was not known
	t.choose(time.Now())
	if err := t.writePlan(ctx, false); err != nil {
		return fail("writing the plan", err)
	}
	if len(t.merged) >= maxMerged || len(t.merged) > 0 && time.Since(t.ordered) > orderIntervals*t.opts.Interval {
		t.writeOrder(ctx)
	}
	t.measure()
	return nil
}

// confirm compares the plan with that of this tenure. If another mirror or program has
// written it, the others do not know which blobs leave, and these begin again.
func (t *tenure) confirm(ctx context.Context) error {
	h, _, _, err := readPlan(ctx, t.opts.Notes)
	if err != nil && !errors.Is(err, storage.ErrNotExist) && !errors.Is(err, errNote) {
		return err
	}
	if err == nil && h.Evictor == t.id && h.Turn == t.turn {
		return nil
	}
	for s, l := range t.leaving {
		l.since = time.Time{}
		t.leaving[s] = l
	}
	return nil
}

// notes returns the notes of a folder that were not read yet, the oldest first.
func (t *tenure) notes(ctx context.Context, folder string) ([]storage.RecordEntry, error) {
	var notes []storage.RecordEntry
	seen := 0
	for note, err := range t.opts.Notes.List(ctx, folder) {
		if err != nil {
			return nil, fail("listing the "+folder+" of mirrors", err)
		}
		if !t.merged[note.Key] {
			notes = append(notes, note)
		}
		if seen++; seen == maxNotes {
			break
		}
	}
	slices.SortFunc(notes, func(a, b storage.RecordEntry) int { return a.Used.Compare(b.Used) })
	return notes[:min(len(notes), max(0, maxMerged-len(t.merged)))], nil
}

// merge reads the uses and the owners that mirrors have announced.
func (t *tenure) merge(ctx context.Context) error {
	notes, err := t.notes(ctx, usesFolder)
	if err != nil {
		return err
	}
	unknown := make(map[digest.Digest]int64)
	for _, note := range notes {
		document, written, err := t.opts.Notes.Read(ctx, note.Key, maxUses*maxLine)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, storage.ErrNotExist):
			continue
		case err != nil && !errors.Is(err, storage.ErrTooLarge):
			return fail("reading the uses", err)
		}
		t.merged[note.Key] = true
		_, uses, err := decodeNote(document, maxUses)
		if err != nil { // of another program, or of a later version: it goes with the others
			t.opts.Logger.Debug("a note of uses cannot be read", "note", note.Key, "error", err)
			continue
		}
		if now := time.Now(); written.After(now) {
			written = now
		}
		// The order of use is that in which uses are noted here.
		slices.SortFunc(uses, func(a, b told) int { return cmp.Compare(b.age, a.age) })
		for _, content := range uses {
			used := written.Add(-content.age).UnixNano()
			if !t.use(content.digest, used) && len(unknown) < maxUnknown {
				unknown[content.digest] = max(used, unknown[content.digest])
			}
		}
	}
	if err := t.learn(ctx, unknown); err != nil {
		return err
	}
	return t.mergeOwners(ctx)
}

// mergeOwners reads the owners that mirrors have announced. The first one that brought a blob in
// keeps it until the content is evicted.
func (t *tenure) mergeOwners(ctx context.Context) error {
	if t.unowning {
		return nil
	}
	notes, err := t.notes(ctx, ownedFolder)
	if err != nil {
		return err
	}
	unknown, owners := make(map[digest.Digest]int64), make(map[digest.Digest]string)
	var read []string
	for _, note := range notes {
		if len(unknown) > maxUnknown-maxOwned { // the next pass reads the rest
			break
		}
		document, written, err := t.opts.Notes.Read(ctx, note.Key, (maxOwned+4)*maxLine)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, storage.ErrNotExist):
			continue
		case err != nil && !errors.Is(err, storage.ErrTooLarge):
			return fail("reading the owners", err)
		}
		read = append(read, note.Key)
		h, contents, err := decodeNote(document, maxOwned)
		if err != nil || h.Block == "" || len(h.Block) > maxOwnerName { // of another program: it goes with the others
			t.opts.Logger.Debug("a note of owners cannot be read", "note", note.Key, "error", err)
			continue
		}
		for _, content := range contents {
			if _, told := owners[content.digest]; !told && !t.give(content.digest, h.Block) {
				unknown[content.digest], owners[content.digest] = min(written.UnixNano(), time.Now().UnixNano()), h.Block
			}
		}
	}
	if err := t.learn(ctx, unknown); err != nil {
		return err
	}
	for dgst, block := range owners {
		t.give(dgst, block)
	}
	for _, name := range read {
		t.merged[name] = true
	}
	return nil
}

// give makes a block the owner of a blob that has none. It reports false if the index does
// not know the content.
func (t *tenure) give(dgst digest.Digest, block string) bool {
	i := t.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	s, e := i.index.lru.find(keyOf(dgst))
	if e == nil {
		return false
	}
	i.index.give(s, i.owner(block))
	return true
}

// use notes the use of a blob, which does not leave then. It reports false if the index
// does not know the content.
func (t *tenure) use(dgst digest.Digest, used int64) bool {
	i := t.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	s, e := i.index.lru.find(keyOf(dgst))
	switch {
	case e == nil:
		return false
	case e.used >= used:
		return true
	}
	if _, leaves := t.leaving[s]; leaves && used > t.spares {
		delete(t.leaving, s)
		i.index.finishDelete(s, false, used)
		return true
	}
	i.index.touch(s, used)
	return true
}

// learn adds blobs to the index that mirrors have used, and that are new.
func (t *tenure) learn(ctx context.Context, unknown map[digest.Digest]int64) error {
	var asks errgroup.Group
	asks.SetLimit(asksAtOnce)
	var mu sync.Mutex
	found := make(map[digest.Digest]int64)
	for dgst := range unknown {
		asks.Go(func() error {
			info, err := t.opts.Store.Stat(ctx, dgst)
			if errors.Is(err, storage.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			found[dgst] = info.Size
			return nil
		})
	}
	if err := asks.Wait(); err != nil {
		return fail("asking for new content", err)
	}
	byUse := func(a, b digest.Digest) int { return cmp.Compare(unknown[a], unknown[b]) }
	for _, dgst := range slices.SortedFunc(maps.Keys(found), byUse) {
		t.inventory.mu.Lock()
		t.inventory.index.discover(dgst, found[dgst])
		t.inventory.mu.Unlock()
		t.use(dgst, unknown[dgst])
	}
	return nil
}

// choose has blobs leave until the rest is within the limits: the least recently used
// first.
func (t *tenure) choose(now time.Time) {
	i := t.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	var bytes int64 // that leave, and those of each owner
	var owned [maxOwners]int64
	for s := range t.leaving {
		e := i.index.lru.at(s)
		bytes += e.size
		owned[e.owner] += e.size
	}
	for len(t.leaving) < maxLeaving {
		s, e := i.index.overCap(&owned)
		why := forBlock
		if e == nil {
			s, e = i.index.lru.oldest()
			why = t.reason(e, bytes, now)
		}
		if why == "" {
			return
		}
		i.index.beginDelete(s)
		t.leaving[s] = leaving{why: why}
		bytes += e.size
		owned[e.owner] += e.size
	}
}

// reason returns the reason for which the least recently used content has to leave, after so
// many bytes, or nothing.
func (t *tenure) reason(e *entry, bytes int64, now time.Time) reason {
	switch {
	case e == nil:
		return ""
	case t.opts.MaxUnused > 0 && now.Sub(time.Unix(0, e.used)) > t.opts.MaxUnused:
		return forUnused
	case t.exceeds(&t.inventory.index, bytes):
		return forSize
	default:
		return ""
	}
}

// exceeds reports whether the store, without some bytes, is over its limit or has no headroom.
// The only content does not leave for mere headroom.
func (t *tenure) exceeds(x *index, without int64) bool {
	limit := t.opts.MaxBytes
	left := x.ledger.stored + x.ledger.records - without
	return limit > 0 && (left > limit || x.lru.length > 1 && left > limit-min(limit/headroomShare, maxSharedHeadroom))
}

// remove removes the blobs whose grace is over, unless they have been used since.
func (t *tenure) remove(ctx context.Context) error {
	for {
		// Each time, since a removal takes a moment.
		if err := t.merge(ctx); err != nil {
			return err
		}
		due := t.due(time.Now())
		if len(due) == 0 {
			return nil
		}
		if !t.holds() {
			return errLeaseLost
		}
		contents := make([]digest.Digest, 0, len(due))
		for dgst := range due {
			contents = append(contents, dgst)
		}
		gone, err := t.opts.Store.DeleteAll(ctx, contents)
		for _, dgst := range gone {
			if s, ok := due[dgst]; ok {
				t.removed(s, dgst)
			}
		}
		if err == nil && len(gone) == 0 {
			err = errors.New("the server has not confirmed any deletion")
		}
		t.undeletable = err != nil
		if err != nil {
			return fail("deleting content", err)
		}
	}
}

// due returns some blobs whose grace is over.
func (t *tenure) due(now time.Time) map[digest.Digest]slot {
	i := t.inventory
	i.mu.Lock()
	defer i.mu.Unlock()
	due := make(map[digest.Digest]slot)
	for s, l := range t.leaving {
		if !l.since.IsZero() && now.Sub(l.since) >= t.opts.grace() {
			due[i.index.lru.digest(i.index.lru.at(s))] = s
		}
		if len(due) == maxRemoved {
			break
		}
	}
	return due
}

// removed notes that a blob is gone.
func (t *tenure) removed(s slot, dgst digest.Digest) {
	i := t.inventory
	i.mu.Lock()
	entry, l := i.index.entry(s), t.leaving[s]
	delete(t.leaving, s)
	i.index.finishDelete(s, true, 0)
	i.deletions.Add(1)
	i.mu.Unlock()
	unused := time.Since(entry.Used)
	if t.removing != nil {
		t.removing(entry)
	}
	t.opts.Metrics.evicted(l.why, entry.Size, unused)
	t.opts.Logger.Debug("evicted from the bucket", "digest", dgst, "bytes", entry.Size, "unused", unused.Round(time.Second), "reason", string(l.why))
}

// writePlan announces which blobs leave. It is written in each pass, so that they
// know that this mirror lives.
func (t *tenure) writePlan(ctx context.Context, off bool) error {
	t.turn++
	planned := t.planned()
	document := encodeNote(header{Evictor: t.id, Turn: t.turn, Off: off, Owners: !t.unowning}, func(yield func(digest.Digest, time.Duration) bool) {
		for _, dgst := range planned {
			if !yield(dgst, 0) {
				return
			}
		}
	})
	if err := t.opts.Notes.Write(ctx, planName, document); err != nil {
		return err
	}
	now := time.Now()
	for s := range planned {
		if l := t.leaving[s]; l.since.IsZero() {
			l.since = now
			t.leaving[s] = l
		}
	}
	return nil
}

// planned returns the blobs of the next plan: those of the last one, and as many others as
// a plan may have.
func (t *tenure) planned() map[slot]digest.Digest {
	t.inventory.mu.Lock()
	defer t.inventory.mu.Unlock()
	planned := make(map[slot]digest.Digest)
	for _, before := range []bool{true, false} {
		for s, l := range t.leaving {
			if len(planned) < maxLeaving && l.since.IsZero() != before {
				planned[s] = t.inventory.index.lru.digest(t.inventory.index.lru.at(s))
			}
		}
	}
	return planned
}

// writeOwners writes down the owners of content.
func (t *tenure) writeOwners(ctx context.Context) error {
	if t.unowning {
		return nil
	}
	var d ownersDocument
	t.inventory.collectOwners(func(key) *ownersDocument {
		if d.entries.Len() == maxOrder {
			return nil
		}
		return &d
	})
	return t.opts.Notes.Write(ctx, ownersName, d.bytes())
}

// writeOrder writes down the order of use and the owners, and removes the notes that are in
// them.
func (t *tenure) writeOrder(ctx context.Context) {
	t.inventory.mu.Lock()
	order := t.inventory.index.order()
	t.inventory.mu.Unlock()
	err := t.writeOwners(ctx)
	if err == nil {
		err = t.opts.Notes.Write(ctx, orderName, order)
	}
	for name := range t.merged {
		if err == nil {
			err = t.opts.Notes.Remove(ctx, name)
		}
		if err != nil {
			break
		}
		delete(t.merged, name)
	}
	if err != nil && ctx.Err() == nil {
		t.opts.Logger.Debug("cannot record when the content of the bucket was last used. Weir tries again", "error", err)
	}
	t.ordered = time.Now()
}
