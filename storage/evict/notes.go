package evict

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/storage"
)

// Mirrors that share a store tell each other their uses, and the blobs that one of them is
// about to remove, in notes next to the content:
//
//	uses/<random>  blobs that a mirror has used; read, and then removed, by the mirror that evicts
//	owned/<random> blobs that a mirror has uploaded for one repository block; in the same way
//	plan           blobs that leave; written by the mirror that evicts, and read by all
//	order          when blobs were last used; of the mirror that evicts, for its successor
//	owners         the repository blocks that brought blobs in; in the same way
//
// A note is foreign, as the whole store is. All of it is bounded before it is believed. A
// forged one can change the order of eviction, or have clients served by the mirrors in
// place of a redirect, and nothing else.
const (
	usesFolder  = "uses"
	ownedFolder = "owned"
	planName    = "plan"
	orderName   = "order"
	ownersName  = "owners"

	// noteFormat is that of plans and uses. A version that cannot read the older ones
	// counts it up.
	noteFormat = 1
	// maxUses bounds the blobs of one note of uses, and so its bytes: some 5 MB. A mirror
	// that uses more within minutes writes several.
	maxUses = 65_536
	// maxOwned bounds the blobs of one note of owners: the mirror that evicts asks for all of
	// them in one pass.
	maxOwned = 1024
	// maxLeaving bounds the blobs of a plan. It is read by each mirror each few minutes.
	maxLeaving = 32_768
	// maxLine bounds a line of a note: a digest has 135 bytes at most, and an age 10.
	maxLine = 160
	// maxAge is the highest age in seconds: a century, which 32 bits take.
	maxAge = 100 * 365 * 24 * 60 * 60
)

// Notes are small documents that all mirrors of a shared store can read and write.
type Notes interface {
	// Read returns a note and when it was written, by the clock of this machine. It returns
	// storage.ErrNotExist, or storage.ErrTooLarge if the note has more than limit bytes.
	Read(ctx context.Context, name string, limit int64) (document []byte, written time.Time, err error)
	Write(ctx context.Context, name string, document []byte) error
	// Remove removes a note. It succeeds if there is none.
	Remove(ctx context.Context, name string) error
	// List lists the notes of a folder in no particular order, each with the time at which it
	// was written.
	List(ctx context.Context, folder string) iter.Seq2[storage.RecordEntry, error]
}

// header is the first line of a note.
type header struct {
	Format int `json:"format"`
	// Evictor and Turn tell the plan of one mirror from that of another one.
	Evictor string `json:"evictor,omitempty"`
	Turn    int    `json:"turn,omitempty"`
	// Off is set in a plan if its mirror cannot evict: no mirror needs to tell its uses.
	Off bool `json:"off,omitempty"`
	// Owners is set in a plan if its mirror reads notes of owners. One of an earlier version
	// would leave them.
	Owners bool `json:"owners,omitempty"`
	// Block is the owner of the blobs in a note of owners.
	Block string `json:"block,omitempty"`
}

// told is a blob in a note.
type told struct {
	digest digest.Digest
	age    time.Duration // of its last use when the note was written
}

// encodeNote returns a note: its header, and a digest with an age in seconds, unless that is
// zero, on each further line.
func encodeNote(h header, contents iter.Seq2[digest.Digest, time.Duration]) []byte {
	h.Format = noteFormat
	document, err := json.Marshal(h)
	if err != nil {
		panic(err) // cannot be: it has texts and numbers only
	}
	for dgst, age := range contents {
		document = append(append(document, '\n'), dgst...)
		if seconds := int64(age / time.Second); seconds > 0 {
			document = fmt.Appendf(document, " %d", min(seconds, maxAge))
		}
	}
	return document
}

var errNote = errors.New("the note is in an unknown format")

// decodeNote returns the header of a note and its digests, at most limit. Lines that are no
// digests are left out: a hostile mirror could leave others out as well.
func decodeNote(document []byte, limit int) (header, []told, error) {
	first, rest, _ := bytes.Cut(document, []byte("\n"))
	var h header
	if len(first) > 4*maxLine {
		return header{}, nil, fmt.Errorf("%w: its first line is too long", errNote)
	}
	if err := json.Unmarshal(first, &h); err != nil || h.Format != noteFormat {
		return header{}, nil, fmt.Errorf("%w: format %d", errNote, h.Format)
	}
	var contents []told
	for line := range bytes.SplitSeq(rest, []byte("\n")) {
		if len(contents) == limit {
			break
		}
		if len(line) > maxLine {
			continue
		}
		name, age, _ := bytes.Cut(line, []byte(" "))
		if dgst := digest.Digest(name); storage.ValidateDigest(dgst) == nil {
			seconds, _ := strconv.ParseUint(string(age), 10, 32) // none is zero
			contents = append(contents, told{dgst, time.Duration(seconds) * time.Second})
		}
	}
	return h, contents, nil
}

// readPlan returns the plan and when it was written.
func readPlan(ctx context.Context, notes Notes) (h header, leaving []told, written time.Time, err error) {
	document, written, err := notes.Read(ctx, planName, maxLeaving*maxLine)
	if errors.Is(err, storage.ErrTooLarge) {
		err = fmt.Errorf("%w: %w", errNote, err)
	}
	if err != nil {
		return header{}, nil, time.Time{}, err
	}
	h, leaving, err = decodeNote(document, maxLeaving)
	return h, leaving, written, err
}
