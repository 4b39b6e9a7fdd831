package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/tokencache"
)

const (
	// defaultTokenLife is that of the distribution token specification.
	defaultTokenLife = 60 * time.Second
	// minTokenLife is the shortest life that is believed: a token that ends
	// sooner would cost a token request for each request.
	minTokenLife = time.Second
	// maxTokenLife bounds the arithmetic with durations. No token lives longer.
	maxTokenLife = 365 * 24 * time.Hour
)

var (
	// errNoAnswer has no cause, which would quote the answer.
	errNoAnswer  = errors.New("its answer is not a token: it is not a JSON object")
	errNoToken   = errors.New("its answer has neither token nor access_token")
	errBadToken  = errors.New("its token has characters that are not allowed in a header")
	errLongToken = fmt.Errorf("its token has more than %d bytes", tokencache.MaxToken)
)

// parseToken reads a token answer. Only the token decides: a field of another
// type counts as missing, and a time that would make the new token unusable is
// replaced by our own clock, since the token service's may be wrong.
func parseToken(body []byte, now time.Time) (tokencache.Token, error) {
	answer, err := readFields(oci.TrimMark(body))
	if err != nil {
		return tokencache.Token{}, errNoAnswer
	}
	// Azure's registry, for example, has an access_token only.
	value, err := tokenValue(append(answer["token"], answer["access_token"]...))
	if err != nil {
		return tokencache.Token{}, err
	}
	life := tokenLife(scalar(answer["expires_in"]), now)
	issued, ok := parseMoment(scalar(answer["issued_at"]))
	token := tokencache.Token{Value: value, Issued: issued, Expires: issued.Add(life)}
	if !ok || issued.After(now) || !token.Usable(now) {
		token.Issued, token.Expires = now, now.Add(life)
	}
	return token, nil
}

// readFields reads a JSON object: all values of each field, since a service may send one
// twice. Names are exact: the metadata service of AWS, for example, answers with a
// "Token", which must not be sent to the registry that named it as token service.
// Trailing bytes do not matter, such as a NUL.
func readFields(body []byte) (map[string][]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	begin, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	if begin != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	fields := make(map[string][]json.RawMessage)
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		key := fmt.Sprint(name) // in an object it is a string
		fields[key] = append(fields[key], value)
	}
	_, err = decoder.Token() // an object that is cut off has no end
	return fields, err
}

// tokenValue returns the first value that a header can carry.
func tokenValue(values []json.RawMessage) (string, error) {
	failure := errNoToken
	for _, field := range values {
		var value string
		if json.Unmarshal(field, &value) != nil {
			continue // another type
		}
		// Services that read the token from a file send the file's newline along.
		value = strings.TrimSpace(value)
		switch {
		case value == "":
		case len(value) > tokencache.MaxToken:
			failure = errLongToken
		case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
			failure = errBadToken
		default:
			return strings.Clone(value), nil // without the blanks
		}
	}
	return "", failure
}

// scalar returns the text of the first value that is a string or a number, and "" if
// there is none.
func scalar(values []json.RawMessage) string {
	for _, field := range values {
		var text string
		if json.Unmarshal(field, &text) == nil && text != "" {
			return strings.TrimSpace(text)
		}
		var number json.Number
		if json.Unmarshal(field, &number) == nil && number != "" {
			return number.String()
		}
	}
	return ""
}

// tokenLife reads expires_in: seconds, a duration such as "5m", or the moment at
// which the token ends.
func tokenLife(text string, now time.Time) time.Duration {
	seconds, isNumber := parseSeconds(text)
	life := toDuration(seconds, maxTokenLife)
	if !isNumber {
		life, _ = time.ParseDuration(text) // 0 if it is none
	}
	// A number of seconds beyond all lives may be the Unix time of the end.
	if end, ok := parseMoment(text); ok && end.After(now) && end.Sub(now) < maxTokenLife {
		life = end.Sub(now)
	}
	if life < minTokenLife {
		return defaultTokenLife
	}
	return min(life, maxTokenLife)
}

// parseSeconds reads a number in decimal notation, such as 300, 0.5 or 3e2. It
// refuses the other notations of strconv.ParseFloat, such as "Inf" and "0x1p4".
func parseSeconds(text string) (seconds float64, ok bool) {
	if text == "" || strings.Trim(text, "0123456789.eE+-") != "" {
		return 0, false
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // it is infinite, and the caller bounds it
	}
	return seconds, err == nil
}

// toDuration converts a number of seconds, at most limit.
func toDuration(seconds float64, limit time.Duration) time.Duration {
	return time.Duration(math.Max(math.Min(seconds, limit.Seconds()), -limit.Seconds()) * float64(time.Second))
}

// Numbers in this range are Unix times, of the years 1985 to 5138. No pause and no
// life in seconds is as long.
const minUnixTime, maxUnixTime = 5e8, 1e11

// parseMoment reads a moment: a Unix time in seconds or a fraction of them, or a
// date in one of the usual forms.
func parseMoment(text string) (time.Time, bool) {
	if number, ok := parseSeconds(text); ok {
		// The number of digits distinguishes milliseconds, microseconds and nanoseconds.
		for _, unit := range []float64{1e9, 1e6, 1e3} {
			if number >= unit*1e9 && number < unit*maxUnixTime {
				number /= unit
				break
			}
		}
		if number < minUnixTime || number >= maxUnixTime {
			return time.Time{}, false
		}
		whole, fraction := math.Modf(number)
		return time.Unix(int64(whole), int64(fraction*float64(time.Second))), true
	}
	for _, layout := range []string{
		time.RFC3339, "2006-01-02T15:04:05.999999999Z0700", "2006-01-02 15:04:05Z07:00", // with a zone
		"2006-01-02T15:04:05", time.DateTime, // without one, which means UTC
		time.RFC1123, time.RFC1123Z, time.RFC850, time.ANSIC, // HTTP dates and those of mail
	} {
		if moment, err := time.Parse(layout, text); err == nil {
			return moment, true
		}
	}
	return time.Time{}, false
}
