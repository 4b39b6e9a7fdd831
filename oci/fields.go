package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// Fields returns the members of a JSON object whose names are exactly these. Of two
// members with one name the last one counts. It returns an error if the text is not an
// object, or null.
//
// encoding/json alone takes other cases as well: it would read the key "Token" of a
// metadata service's answer as the "token" of a token service.
func Fields(text []byte, names ...string) (map[string]json.RawMessage, error) {
	if err := json.Unmarshal(text, new(struct{})); err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil { // the brace
		return nil, err
	}
	fields := make(map[string]json.RawMessage, len(names))
	var value json.RawMessage // of all members in turn, since there may be many
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		if name := fmt.Sprint(name); slices.Contains(names, name) {
			fields[name] = slices.Clone(value)
		}
	}
	return fields, nil
}
