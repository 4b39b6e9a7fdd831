package disk

// WaitForCount waits until the background work of Open has ended.
func (s *Store) WaitForCount() { s.background.Wait() }
