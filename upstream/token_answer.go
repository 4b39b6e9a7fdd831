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
	errNoToken  = errors.New("its answer has neither token nor access_token")
	errBadToken = errors.New("its token has characters that no header can carry")
)

// parseToken reads a token answer. Only the token decides: a field of another
// type counts as missing, and a time that would make the new token unusable is
// replaced by our own clock, since the token service's may be wrong.
func parseToken(body []byte, now time.Time) (tokencache.Token, error) {
	var answer struct {
		Token       json.RawMessage `json:"token"`
		AccessToken json.RawMessage `json:"access_token"`
		ExpiresIn   json.RawMessage `json:"expires_in"`
		IssuedAt    json.RawMessage `json:"issued_at"`
	}
	// A decoder reads the object and leaves trailing bytes alone, such as a NUL.
	if err := json.NewDecoder(bytes.NewReader(oci.TrimMark(body))).Decode(&answer); err != nil {
		return tokencache.Token{}, fmt.Errorf("its answer is no token: %w", err)
	}
	value, err := tokenValue(answer.Token)
	if err != nil {
		// Azure's registry, for example, has an access_token only.
		other, otherErr := tokenValue(answer.AccessToken)
		switch {
		case otherErr == nil:
			value = other
		case errors.Is(err, errNoToken):
			return tokencache.Token{}, otherErr
		default:
			return tokencache.Token{}, err
		}
	}
	life := tokenLife(scalar(answer.ExpiresIn), now)
	issued, ok := parseMoment(scalar(answer.IssuedAt))
	token := tokencache.Token{Value: value, Issued: issued, Expires: issued.Add(life)}
	if !ok || issued.After(now) || !token.Usable(now) {
		token.Issued, token.Expires = now, now.Add(life)
	}
	return token, nil
}

// tokenValue returns a token that a header can carry.
func tokenValue(field json.RawMessage) (string, error) {
	var value string
	if json.Unmarshal(field, &value) != nil {
		return "", errNoToken // missing, or another type
	}
	// Services that read the token from a file send the file's newline along.
	value = strings.TrimSpace(value)
	switch {
	case value == "":
		return "", errNoToken
	case strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errBadToken
	}
	return value, nil
}

// scalar returns the text of a string or a number, and "" for any other value.
func scalar(field json.RawMessage) string {
	var text string
	if json.Unmarshal(field, &text) == nil {
		return strings.TrimSpace(text)
	}
	var number json.Number
	if json.Unmarshal(field, &number) == nil {
		return number.String()
	}
	return ""
}

// tokenLife reads expires_in: seconds, a duration such as "5m", or the moment at
// which the token ends.
func tokenLife(text string, now time.Time) time.Duration {
	seconds, isNumber := parseSeconds(text)
	life := toDuration(seconds, maxTokenLife)
	if !isNumber {
		life, _ = time.ParseDuration(text)
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
		// The number of digits tells milliseconds, microseconds and nanoseconds.
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
