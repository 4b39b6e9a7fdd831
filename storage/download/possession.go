package download

import (
	"errors"
	"io"

	"github.com/weirhq/weir/storage/spool"
)

// firstSample is how many bytes have to arrive before a part of them proves possession.
// It is large enough that a part at random is not the beginning, which content of one
// kind has in common, and half of the first read of a download.
const firstSample = 64 << 10

// possession is how far a reader's repository has proven that it possesses the content
// of a download whose bytes are not its own upstream's.
//
//	unproven ──► begun ──► proven
//	   │                      ▲
//	   └── complete already ──┘
type possession uint8

const (
	unproven possession = iota
	begun               // by a part of the bytes that had arrived: all but the tail may be read
	proven              // by parts of the whole
)

// refusal is an error of [Source.Prove].
type refusal struct{ error }

func (e *refusal) Unwrap() error { return e.error }

// foreign reports whether another repository started the reader's download.
func (r *Reader) foreign() bool { return r.download.src.Repository != r.src.Repository }

// lent reports whether the bytes of the reader's download prove nothing for its repository:
// another one's upstream delivered them, or an [Origin].
func (r *Reader) lent() bool { return r.foreign() || r.download.isUnproven() }

// independent reports whether the failure of the download's source says nothing about the
// reader's own.
func (r *Reader) independent() bool { return r.foreign() || r.download.src.Client != r.src.Client }

// admit makes sure that the reader's repository may have the bytes of the spool up to
// end. A download that fails before it can be proven is an error, and no refusal.
func (r *Reader) admit(end int64) error {
	switch {
	case !r.lent() || r.src.Prove == nil || r.possession == proven:
		return nil
	case r.refused != nil:
		return r.refused
	}
	v := r.download.view()
	if v.spool == nil {
		return v.err // it ended without a byte
	}
	if r.possession == unproven {
		have, err := r.awaitSample(v.spool)
		if err == nil {
			err = r.prove(v.spool, have)
		}
		if err != nil {
			return err
		}
	}
	// A failed download withholds its tail, or ends in the middle. The rest comes from
	// the reader's own source.
	size := v.spool.Size()
	if r.possession == proven || r.download.view().err != nil || size < 0 || end <= size-spool.TailHold {
		return nil
	}
	return r.prove(v.spool, size)
}

// awaitSample waits until there are enough bytes for a first proof, and returns how many
// there are.
func (r *Reader) awaitSample(s *spool.Spool) (have int64, err error) {
	reader, err := s.NewReader(r.ctx)
	if err != nil {
		return 0, err
	}
	defer reader.Close()
	if _, err := reader.Seek(firstSample-1, io.SeekStart); err != nil {
		return 0, err
	}
	// The end of a complete spool comes earlier if the content is small.
	if _, err := reader.Read(make([]byte, 1)); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return s.Readable(), nil
}

// prove asks the reader's source to prove its possession by the first have bytes of a
// spool.
func (r *Reader) prove(s *spool.Spool, have int64) error {
	content, err := s.NewReader(r.ctx)
	if err != nil {
		return err
	}
	defer content.Close()
	size := s.Size()
	if err := r.src.Prove(r.ctx, content, have, size); err != nil {
		r.refused = &refusal{err}
		return r.refused
	}
	r.possession = begun
	if have == size {
		r.possession = proven
	}
	return nil
}
