"""What each verb does: its function, its result and the result's text. No verb imports another, except `demo`."""
