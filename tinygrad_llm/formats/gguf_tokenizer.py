def write_tokenizer(*_):
    return {}
